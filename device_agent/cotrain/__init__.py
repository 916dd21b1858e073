"""The boxes of a group train one branch together, over gloo: transport, rounds, one branch file.

Every two boxes have a gloo group of their own. In a common group one wait that ends by its time
limit closes the connections between all boxes ("Application timeout caused pair closure"); so one
box that hangs would stop everybody.
"""
