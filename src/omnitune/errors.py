"""Every error omnitune raises on purpose.

    OmnituneError
    ├── InputError(ValueError)            an argument has a value that cannot work
    │   ├── ShapeError                    a tensor or a list has the wrong shape or length
    │   ├── ModalityError                 an input of a kind the model does not take
    │   └── RecipeError                   a key or a value in a recipe is unknown
    ├── MediaError(ValueError)            one image, recording or clip cannot be read
    │   ├── MediaNotFoundError(FileNotFoundError)   it looks like a path or URL and nothing is there
    │   └── MediaRefusedError             it breaks the media policy (size, pixels, address)
    ├── DatasetError(ValueError)          a dataset cannot be used as it is: columns, labels, bad items
    │   └── LeakageError                  a test document's page, or its near-duplicate, is in training
    ├── DocumentError(ValueError)         a document cannot be opened
    ├── CheckpointError(ValueError)       a model directory is incomplete, foreign or unsafe
    │   ├── CheckpointNotFoundError(FileNotFoundError)   neither a directory nor a repository that can be reached
    │   └── UntrustedCodeError            it needs code that the caller did not allow
    ├── MissingExtraError(ImportError)    an optional package is not installed; names the extra
    ├── EndpointError(ConnectionError)    a model behind an address does not answer, or refuses
    └── ResourceError(RuntimeError)       disk or memory ran out, or a folder cannot be written to

Each message says which argument, what was expected, what came, and what to do.
"""

__all__ = [
    "CheckpointError",
    "CheckpointNotFoundError",
    "DatasetError",
    "DocumentError",
    "EndpointError",
    "InputError",
    "LeakageError",
    "MediaError",
    "MediaNotFoundError",
    "MediaRefusedError",
    "MissingExtraError",
    "MissingLanguageError",
    "ModalityError",
    "OmnituneError",
    "RecipeError",
    "ResourceError",
    "ShapeError",
    "UntrustedCodeError",
]


class OmnituneError(Exception):
    """Base of every error raised on purpose."""


class InputError(OmnituneError, ValueError):
    """An argument has a value that cannot work."""


class ShapeError(InputError, RuntimeError):
    """A tensor or a list has the wrong shape or length; torch's own error of this is a `RuntimeError`."""


class ModalityError(InputError):
    """An input is of a kind the model does not take."""


class RecipeError(InputError):
    """A key or a value in a recipe is unknown."""


class MissingLanguageError(InputError):
    """A recogniser has no model of the language that was asked for."""


class MediaError(OmnituneError, ValueError):
    """One image, recording or clip cannot be read.

    `reason` is the bare cause; `place` says which dataset, row and column it came from, once that is known.
    """

    def __init__(self, reason: str, *, place: str | None = None) -> None:
        self.reason = reason
        self.place = place
        super().__init__(reason if place is None else f"{place}: {reason}")

    def at(self, place: str) -> "MediaError":
        """The same error with the place it came from in front."""
        return type(self)(self.reason, place=place)


class MediaNotFoundError(MediaError, FileNotFoundError):
    """Something looks like a path or URL of media, and nothing is there."""


class MediaRefusedError(MediaError):
    """An item breaks the media policy: bytes, pixels, time or address."""


class DatasetError(OmnituneError, ValueError):
    """A dataset cannot be used as it is."""


class LeakageError(DatasetError):
    """A test document's page, or its near-duplicate, is in training."""


class DocumentError(OmnituneError, ValueError):
    """A document cannot be opened."""


class CheckpointError(OmnituneError, ValueError):
    """A model directory is incomplete, foreign or unsafe."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A model's name is neither a directory nor a repository that can be reached."""


class UntrustedCodeError(CheckpointError):
    """A checkpoint needs code that the caller did not allow."""


class MissingExtraError(OmnituneError, ImportError):
    """An optional package is not installed."""


class EndpointError(OmnituneError, ConnectionError):
    """A model behind an address does not answer, or refuses."""


class ResourceError(OmnituneError, RuntimeError):
    """Disk or memory ran out, or a folder cannot be written to."""
