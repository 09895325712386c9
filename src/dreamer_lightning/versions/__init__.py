"""How the actor and the critic learned in DreamerV1, DreamerV2 and the DreamerV3 of 2023."""

from dreamer_lightning.versions.v1 import ActorCriticV1 as ActorCriticV1
from dreamer_lightning.versions.v2 import ActorCriticV2 as ActorCriticV2
from dreamer_lightning.versions.v3_2023 import ActorCritic2023 as ActorCritic2023
