"""Types that settings are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Triple = tuple[Positive, Positive, Positive]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Loss = Literal["cross_entropy", "dice", "both"]
Tile = Annotated[
    Annotated[tuple[Positive, Positive], Tag("2")] | Annotated[Triple, Tag("3")],
    # So that a mistake is told of the one that was meant.
    Discriminator(lambda value: "3" if isinstance(value, list | tuple) and len(value) == 3 else "2"),
]
Axis = Literal["z", "y", "x"]
Mirror = Annotated[
    Annotated[Literal["none"], Tag("none")] | Annotated[list[Axis], Field(min_length=1), Tag("axes")],
    Discriminator(lambda value: "axes" if isinstance(value, list) else "none"),
]
Span = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Value = Annotated[int, Field(ge=-(2**31), lt=2**32)]


class Model(BaseModel):
    """Settings: unknown keys are errors, types are not guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
