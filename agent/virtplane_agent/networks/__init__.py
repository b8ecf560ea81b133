"""VirtualNetworks that machines of this agent are on: made where they are needed, kept so, and taken away again."""
