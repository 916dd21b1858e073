"""Many boxes at once on one machine: simulate, demo, pictures."""

from edge_stl.fleet._bands_picture import bands_picture as bands_picture
