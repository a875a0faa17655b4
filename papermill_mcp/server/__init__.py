"""The server process: transport, JSON-RPC, and the MCP server on the SDK."""
