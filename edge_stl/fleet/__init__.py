"""Many boxes at once: simulate, demo, jobs and their engines, pictures."""

from edge_stl.fleet._bands_picture import bands_picture as bands_picture
