"""Pictures of outputs: checked and scaled, drawn from SVG and charts, and put together on contact sheets."""
