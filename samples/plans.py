"""A plan for each kind of transform: which branches it has, what they cost, which box has them.

    python samples/plans.py

Nothing here touches a pixel or loads torch: it is arithmetic on names.
"""

from edge_stl.plan import new_plan, plan_toml
from edge_stl.plan.networks import multiply_adds, parameters


CLASSES = ["bicycle", "car", "truck"]
MOST = 4  # bands on a line

for transform in ("haar", "db2", "bior4.4", "dct:2", "dct:4", "dct:8"):
    plan = new_plan(classes=CLASSES, resolution=64, transform=transform)
    print(f"\n{plan.bank}: boxes of {', '.join(map(str, plan.resolutions))} px")
    for branch in plan.branches:
        shape = {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}
        layers = plan.layers(branch)
        few = " ".join(branch.bands[:MOST]) + (" …" if len(branch.bands) > MOST else "")
        print(
            f"  {branch.name:4} {few:24} needs {plan.required_resolution(branch):2} px, reads "
            f"{shape['channels']} x {shape['size']} x {shape['size']}, "
            f"{parameters(layers, **shape):,} parameters, "
            f"{multiply_adds(layers, **shape):,} multiply-adds"
        )

print("\nhaar with one level, every way to make branches:")
for kind in ("single", "detail", "context", "all"):
    plan = new_plan(classes=CLASSES, resolution=64, levels=1, branches=kind)
    print(f"  {kind:8} " + "; ".join(f"{b.name}: {' '.join(b.bands)}" for b in plan.branches))

print("\nThe last one as plan.toml:\n")
print(plan_toml(plan))
