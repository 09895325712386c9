from dreamer_lightning.optim.laprop import LaProp

__all__ = ["LaProp"]
