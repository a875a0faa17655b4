"""Text made from the forms of a display that are neither text nor a picture: pages, charts, maps."""
