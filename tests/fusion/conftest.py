"""Hypothesis without a clock: the machine may be busy training."""

from hypothesis import HealthCheck, settings


settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
