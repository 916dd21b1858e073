"""What a machine lacks for training here, found before a run finds it: ``edge-stl doctor``.

Every probe is a function that reads the machine below a given root, so that a test can show it any
machine. None uses the network, and nothing that it writes stays.
"""

from device_agent.doctor._check import Check as Check, worst as worst
from device_agent.doctor._examine import examine as examine
from device_agent.work import default_work_root as default_work_root
