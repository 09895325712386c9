"""The shared nouns: what an environment offers, what the model carries, what a training forward returns.

Shape legend, used in signatures and trailing comments everywhere:

=========  ==================================================================
``b``      sequences in a batch (or environments while acting)
``t``      time steps of a sequence
``h``      imagined steps (``imag_length``); ``h+1``, or ``h1`` where no ``h`` is beside it, counts the start state
``n``      imagined trajectories, ``b * k`` with ``k`` start states a sequence
``d``      ``deter``: size of the deterministic state
``z``      flat size of the stochastic state: groups x classes, or Gaussian dims
``s c``    groups and classes of a categorical ``stoch``
``a``      flat action vector: continuous entries, one-hot for discrete ones
``e``      ``embed``: encoder output
``f``      ``feat`` = [deter, stoch]
=========  ==================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import prod
from typing import Any, NamedTuple, Self, TypeVar

import torch
from jsonargparse.typing import ClosedUnitInterval as ClosedUnitInterval
from jsonargparse.typing import NonNegativeFloat as NonNegativeFloat
from jsonargparse.typing import NonNegativeInt as NonNegativeInt
from jsonargparse.typing import PositiveInt as PositiveInt
from torch import Tensor

from dreamer_lightning.errors import BadNumbers as BadNumbers
from dreamer_lightning.errors import EnvFailure as EnvFailure
from dreamer_lightning.errors import Occupied as Occupied
from dreamer_lightning.errors import UserError as UserError

# Record keys (architecture: "Data: two vocabularies, one door").
OBS, PREV_ACTION, REWARD = "obs", "prev_action", "reward"
IS_FIRST, IS_LAST, IS_TERMINAL = "is_first", "is_last", "is_terminal"
LATENT = "latent"  # holds what the dynamics carries, by its names, in the packed form that its ``pack`` gives
EXPLORED = "explored"  # on the wire: whether something else was played than the policy's action
# Names on the wire that no observation can have.
WIRE = {PREV_ACTION, LATENT, REWARD, EXPLORED, "action", "next", "collector", "is_init"}
WIRE |= {"done", "terminated", "truncated"}
LOG_PREFIX = "log/"  # observations that are logged and never reach the model


LARGEST = 10**18
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Count(int):
    """A whole number that may be written ``100000``, ``1e5``, ``100K`` or ``0.1M``."""

    def __new__(cls, value: Any) -> Count:
        match = re.fullmatch(r"([0-9][0-9_]*\.?[0-9]*(?:[eE]\+?[0-9]+)?)([KMG]?)", str(value).strip())
        if not match:
            raise ValueError(f"expected a whole number such as 100000, 1e5 or 100K, got '{value}'")
        number = Decimal(match[1]) * SUFFIXES[match[2]]  # a float would miss 1.001M by a rounding error
        if number > LARGEST or number != int(number):
            raise ValueError(f"expected a whole number below 1e18, got {value}")
        return super().__new__(cls, int(number))


@dataclass(frozen=True)
class Space:
    """One observation or one action.

    Args:
        shape: event shape; images are (height, width, channels).
        dtype: ``float32``, ``uint8``, ``int32`` or ``bool``.
        classes: number of classes of a discrete entry, 0 if continuous.
        start: the number that stands for class 0 in the environment itself; nested lists where entries differ.
        source: what the environment itself says of it, in words.
        scale: black and white of a picture that is not uint8 in the environment itself.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    classes: int = 0
    start: Any = field(default=0, compare=False)
    source: str = field(default="", compare=False)
    scale: Any = field(default=None, compare=False)

    @property
    def discrete(self) -> bool:
        return self.classes > 0

    @property
    def image(self) -> bool:
        return self.dtype == "uint8" and len(self.shape) == 3

    @property
    def words(self) -> str:
        """What it is taken for, in words."""
        sizes = "x".join(map(str, self.shape))
        if self.image:
            return f"a {sizes} picture"
        if self.discrete:
            return f"{f'{sizes} entries of ' if sizes else ''}{self.classes} classes"
        return f"{sizes or 1} numbers"

    @property
    def size(self) -> int:
        """Entries of the flat vector: one per number, ``classes`` per discrete number."""
        return prod(self.shape) * max(1, self.classes)


class Layout(dict[str, Space]):
    """Spaces by name whose numbers lie side by side in one flat vector [*b, a], in the order of this dict.

    A continuous entry takes one place for each number, a discrete one takes ``classes`` places (one-hot).
    """

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(space.size for space in self.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat vector [*b, a] as one tensor per entry, in the shape of its space (and its classes)."""
        sizes = [space.size for space in self.values()]
        parts = flat.split(sizes, -1) if len(sizes) > 1 else [flat]
        return {
            name: part.reshape((*part.shape[:-1], *space.shape, *[space.classes] * space.discrete))
            for (name, space), part in zip(self.items(), parts, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``split``."""
        flat = []
        for name, space in self.items():
            lead = parts[name].ndim - len(space.shape) - space.discrete
            flat.append(parts[name].reshape(*parts[name].shape[:lead], space.size))
        return torch.cat(flat, -1) if len(flat) > 1 else flat[0]

    def one_hot(self, numbers: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """The flat vector [*b, a] of numbers and class numbers (from 0), each [*b, *shape of its space]."""
        parts = {}
        for name, space in self.items():
            value = numbers[name]
            if space.discrete:
                value = value.unsqueeze(-1) == torch.arange(space.classes, device=value.device)
            parts[name] = value.to(dtype)
        return self.join(parts)

    def numbers(self, flat: Tensor) -> dict[str, Tensor]:
        """The inverse of ``one_hot``; of a discrete entry the place of its largest number counts."""
        parts = self.split(flat)
        return {name: parts[name].argmax(-1) if space.discrete else parts[name] for name, space in self.items()}

    def clip(self, flat: Tensor) -> Tensor:
        """The flat vector with its continuous entries cut to [-1, 1], between which every policy acts."""
        if all(space.discrete for space in self.values()):
            return flat
        parts = self.split(flat)
        return self.join({name: parts[name] if self[name].discrete else parts[name].clamp(-1, 1) for name in self})

    def random(
        self, shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Uniform draws [*shape, a]: in [-1, 1] where continuous, one-hot where discrete."""
        draws = torch.rand(*shape, self.size, generator=generator, device=device)
        numbers = self.numbers(draws)
        return self.one_hot(
            {name: numbers[name] if space.discrete else 2 * numbers[name] - 1 for name, space in self.items()}
        )


@dataclass(frozen=True)
class Specs:
    """What an environment offers: observations and actions by name, in the environment's own order.

    The flat action vector ``a`` concatenates the action entries in sorted order of their names: ``actions``.

    Args:
        obs: observations by name, as the model sees them.
        action: actions by name, as the policy gives them.
        native: the environment's own action space as plain data, see ``envs.actions.describe``; empty where it is not
            known.
    """

    obs: dict[str, Space]
    action: dict[str, Space]
    native: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def actions(self) -> Layout:
        """The layout of the flat action vector."""
        return Layout(sorted(self.action.items()))

    @property
    def action_dim(self) -> int:
        return self.actions.size

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Specs:
        """The inverse of ``dataclasses.asdict``."""

        def spaces(part: dict[str, Any]) -> dict[str, Space]:
            return {name: Space(**{**x, "shape": tuple(x["shape"])}) for name, x in part.items()}

        return cls(spaces(plain["obs"]), spaces(plain["action"]), plain.get("native") or {})


C = TypeVar("C", bound="Carried")


class Carried(tuple[Tensor, ...]):
    """The model state carried in time: tensors [*b, .] by names that the dynamics gives them; mixin of a named tuple.

    Collector, replay and evaluation keep each part under its name (any but ``prev_action`` and ``is_first``). Heads and
    decoders see two of them, which may be fields or properties.
    """

    __slots__ = ()
    _fields: Any
    _replace: Callable[..., Self]
    deter: Any  # [*b, d]
    stoch: Any  # [*b, z], flat

    @property
    def feat(self) -> Tensor:
        """[*b, d+z]: the only order in which heads see the two."""
        return torch.cat([self.deter, self.stoch], -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*map(function, self))

    def detach(self) -> Self:
        return self.map(Tensor.detach)

    @staticmethod
    def stack(steps: Sequence[C]) -> C:
        """The states of successive steps [*b, .] as one [*b, t, .]."""
        return type(steps[0])(*(torch.stack(parts, -2) for parts in zip(*steps, strict=True)))


class Latent(NamedTuple("Latent", [("deter", Tensor), ("stoch", Tensor)]), Carried):
    """What an RSSM carries: ``deter`` [*b, d] and ``stoch`` [*b, z] (flat)."""

    __slots__ = ()


@dataclass
class Size:
    """Network sizes that presets refer to as ``${size.units}`` and so on.

    Args:
        deter: width of the deterministic state (a multiple of the number of blocks).
        hidden: width of the recurrent model's hidden layers.
        classes: classes of each categorical latent.
        depth: channel multiplier of the image networks.
        units: width of the encoder, decoder and head layers.
    """

    deter: int = 512
    hidden: int = 64
    classes: int = 4
    depth: int = 4
    units: int = 64

    @property
    def name(self) -> str:
        """``1m`` to ``400m`` by the width of the deterministic state, as configs/size has them; else that width."""
        names = {512: "1m", 2048: "12m", 3072: "25m", 4096: "50m", 6144: "100m", 8192: "200m", 12288: "400m"}
        return names.get(self.deter, f"d{self.deter}")


@dataclass(frozen=True)
class Discount:
    """How much a later reward counts.

    Args:
        horizon: effective horizon in agent steps, 1/(1-gamma).
        contdisc: the continue head learns the discount too, which then is not applied again in dreams.

    Raises:
        UserError: a horizon of less than one step.
    """

    horizon: float = 333.0
    contdisc: bool = True

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UserError(f"--discount.horizon: {self.horizon:g} is too small; give 1 or more")

    @property
    def gamma(self) -> float:
        """The factor for each step."""
        return 1 - 1 / self.horizon


Losses = dict[str, Tensor]
Metrics = dict[str, Tensor]
