"""One model with several routes: which modules an input goes through depends on its task and its modality."""

import ast
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from omnitune.errors import CheckpointError, InputError, ModalityError
from omnitune.inputs.cost import CostRule
from omnitune.inputs.detect import MEDIA
from omnitune.inputs.sampling import Sampling
from omnitune.modules import files, registry
from omnitune.modules.base import InputModule, Module, loaded_modality, write_module
from omnitune.modules.sequence import (
    first_input_module,
    last_dimension,
    modalities_through,
    preprocess_through,
    route_cost_rule,
    sampling_through,
)
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

RouteKey = tuple[str | None, str | tuple[str, ...] | None]
"""Task and modality of an input; None stands for any."""


class Router(InputModule):
    """Sends each batch through one of several sequences of modules.

    A route is found by the first of these that is there: the mapping of (task, modality), of (task, any), of (any,
    modality), of (any, any); the route named like the task; the route named like the modality; the default route.

    Args:
        sub_modules: Modules of every route, in order. Routes may share modules. A route may begin with readers, which
            turn one modality into another before the route's input module.
        default_route: Route taken where none is found; None for the first one.
        allow_empty_key: False: without `default_route`, an input without a route is an error.
        route_mappings: Routes of (task, modality), where None stands for any.

    Raises:
        InputError: There are no routes, or one is named that is not there.

    Example:
        >>> words = modules.StaticEmbedding(model.tokenizer, embedding_dim=384)
        >>> routed = SentenceTransformer(modules=[Router.for_query_document([words], [*model])])
        >>> routed.encode_query("how often?").shape, routed.encode_document(pages).shape
        ((384,), (2, 384))
    """

    config_file_name: ClassVar[str] = "router_config.json"
    config_keys: ClassVar[list[str]] = ["default_route", "allow_empty_key", "route_mappings"]
    forward_kwargs: set[str] = {"modality", "task"}

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[nn.Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[RouteKey, str] | None = None,
    ) -> None:
        super().__init__()
        if not sub_modules:
            raise InputError("sub_modules: expected at least one route, got none")
        mapped = {(task, _sorted(modality)): route for (task, modality), route in (route_mappings or {}).items()}
        for name, route in [("default_route", default_route), *(("route_mappings", r) for r in mapped.values())]:
            if route is not None and route not in sub_modules:
                raise InputError(f"{name}: expected one of the routes {list(sub_modules)}, got {route!r}")
        self.sub_modules = nn.ModuleDict({name: nn.Sequential(*modules) for name, modules in sub_modules.items()})
        if default_route is None and allow_empty_key:
            default_route = next(iter(sub_modules))
        self.default_route = default_route
        self.allow_empty_key = allow_empty_key
        self.route_mappings: dict[RouteKey, str] = mapped

    @classmethod
    def for_query_document(
        cls,
        query_modules: list[Module],
        document_modules: list[Module],
        default_route: str | None = "document",
        allow_empty_key: bool = True,
    ) -> Self:
        """A router with one route for queries and one for documents.

        Args:
            query_modules: What `task="query"` goes through.
            document_modules: What `task="document"` goes through.
            default_route: Route taken without a task.
            allow_empty_key: False: without `default_route`, an input without a task is an error.
        """
        return cls({"query": query_modules, "document": document_modules}, default_route, allow_empty_key)

    # -- routes

    def route_for(self, task: str | None, modality: Modality | None) -> str:
        """The route of inputs with this task and modality.

        Raises:
            InputError: There is none.
        """
        kind = _sorted(modality)
        for key in ((task, kind), (task, None), (None, kind), (None, None)):
            if key in self.route_mappings:
                return self.route_mappings[key]
        if task is not None and task in self.sub_modules:
            return task
        if isinstance(kind, str) and kind in self.sub_modules:
            return kind
        if task is None and self.default_route is not None:
            return self.default_route
        mapped = "".join(f", {key}: {route!r}" for key, route in self.route_mappings.items())
        raise InputError(
            f"task, modality: no route for task={task!r}, modality={kind!r}; routes: {list(self.sub_modules)}{mapped}. "
            "Pass task= (in training, router_mapping=), or give the Router a default_route"
        )

    def _routes(self) -> Iterator[list[nn.Module]]:
        for route in self.sub_modules.values():
            yield list(route.children())

    # -- features

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        modality: Modality | None = None,
        **kwargs: Any,
    ) -> Features:
        """Features of `inputs`, made by their route; `"task"` and `"input_modality"` keep what chose it."""
        if modality is None:
            modality = self._shared(inputs, task)
        route = self.sub_modules[self.route_for(task, modality)]
        kind = None if modality == "message" else modality
        features = preprocess_through(list(route.children()), inputs, prompt, modality=kind, task=task, **kwargs)
        features["task"] = task
        features["input_modality"] = modality
        return features

    def sampling(self, modality: Modality, *, task: str | None = None, **kwargs: Any) -> Sampling:
        """As the route of such inputs wants it; without a task that leads to one, the first route that takes them."""
        try:
            route = self.sub_modules[self.route_for(task, modality)]
            return sampling_through(list(route.children()), modality, **kwargs)
        except InputError:
            taking = (modules for modules in self._routes() if modality in modalities_through(modules))
            return sampling_through(next(taking, []), modality, **kwargs)

    def _shared(self, inputs: Sequence[Any], task: str | None) -> Modality:
        """Modality of all inputs; `"message"` where they differ and one route takes them all."""
        kinds = {loaded_modality(item) for item in inputs}
        if len(kinds) == 1:
            return kinds.pop()
        routes = {self.route_for(task, kind) for kind in [*kinds, "message"]}
        if len(routes) > 1:
            raise ModalityError(
                f"inputs: one call to preprocess goes through one route; got {sorted(map(str, kinds))}, which go "
                f"through {sorted(routes)}. encode() splits them by itself"
            )
        return "message"

    def forward(
        self, features: Features, task: str | None = None, modality: Modality | None = None, **kwargs: Any
    ) -> Features:
        """Features after all modules of their route.

        Args:
            features: From `preprocess`.
            task: Overrides the features' task.
            modality: Overrides the features' modality.
            **kwargs: Handed to the modules whose `forward_kwargs` name them.
        """
        task = features.get("task") if task is None else task
        modality = features.get("input_modality", features.get("modality")) if modality is None else modality
        extra = {**kwargs, "task": task, "modality": modality}
        for module in self.sub_modules[self.route_for(task, modality)].children():
            wanted: set[str] = getattr(module, "forward_kwargs", set())
            features = module(features, **{key: value for key, value in extra.items() if key in wanted})
        return features

    # -- what the input modules say

    @property
    def takes_pairs(self) -> bool:
        """Tell whether a pair of texts can be one input, on every route that takes text."""
        routes = (route for route in self._routes() if "text" in modalities_through(route))
        return all(getattr(first_input_module(route), "takes_pairs", True) for route in routes)

    @property
    def modalities(self) -> list[Modality]:
        """Modalities that any route takes, in alphabetical order."""
        return sorted({kind for modules in self._routes() for kind in modalities_through(modules)}, key=str)

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]  # of the first route that has one
        """The first route's tokenizer that there is, or None."""
        found = (getattr(first_input_module(modules), "tokenizer", None) for modules in self._routes())
        return next((tokenizer for tokenizer in found if tokenizer is not None), None)

    @property
    def processor(self) -> Any:
        """The first route's processor that there is, or None."""
        found = (getattr(first_input_module(modules), "processor", None) for modules in self._routes())
        return next((processor for processor in found if processor is not None), None)

    @property
    def max_seq_length(self) -> int | None:
        """The longest of the routes' limits, or None."""
        limits = (getattr(first_input_module(modules), "max_seq_length", None) for modules in self._routes())
        return max((limit for limit in limits if limit), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for modules in self._routes():
            module = first_input_module(modules)
            if isinstance(getattr(module, "max_seq_length", None), int):
                module.max_seq_length = value  # type: ignore[assignment]  # torch types attributes as modules

    @property
    def cost_rule(self) -> CostRule:
        """The text rule of the first route that takes text, with every medium's rule of the first that takes it."""
        rules = {
            kind: route_cost_rule(modules)
            for modules in reversed([*self._routes()])
            for kind in modalities_through(modules)
        }
        text = rules.get("text", CostRule())
        found: dict[str, Any] = {kind: rules.get(kind, rules.get("message", text)) for kind in MEDIA}
        return replace(text, **{kind: getattr(rule, kind) for kind, rule in found.items()})

    def get_embedding_dimension(self) -> int | None:
        """Dimension of the embedding, or None where no module says so.

        Raises:
            InputError: Routes differ in it.
        """
        dims = {last_dimension(modules) for modules in self._routes()} - {None}
        if len(dims) > 1:
            raise InputError(f"sub_modules: expected routes that end in one dimension, got {sorted(map(str, dims))}")
        return dims.pop() if dims else None

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def extra_repr(self) -> str:
        """Default route and mappings."""
        return f"default_route={self.default_route!r}, route_mappings={self.route_mappings}"

    # -- files

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write every module into a folder of its own, a shared one once, and how they make up the routes."""
        names: dict[int, str] = {}
        types: dict[str, str] = {}
        structure: dict[str, list[str]] = {}
        for route, modules in self.sub_modules.items():
            structure[route] = []
            for index, module in enumerate(modules.children()):
                name = names.setdefault(id(module), f"{route}_{index}_{type(module).__name__}")
                structure[route].append(name)
                if name in types:
                    continue
                types[name] = registry.type_of(module)
                folder = Path(output_path) / name
                folder.mkdir(parents=True, exist_ok=True)
                write_module(module, folder, safe_serialization=safe_serialization)
        parameters = {**self.get_config_dict(), "route_mappings": {str(k): r for k, r in self.route_mappings.items()}}
        content = {"types": types, "structure": structure, "parameters": parameters}
        files.write_json(Path(output_path) / self.config_file_name, content)

    @classmethod
    def from_files(cls, root: Path, subfolder: str, **kwargs: Any) -> Self:
        """Read a router and all its modules.

        Raises:
            CheckpointError: The configuration is incomplete, or a module's is.
            UntrustedCodeError: A module is foreign code, which the caller did not allow.
        """
        config = files.read_json(root / subfolder / cls.config_file_name) or files.read_json(
            root / subfolder / "config.json"
        )
        if not {"types", "structure", "parameters"} <= config.keys():
            raise CheckpointError(
                f"{root / subfolder / cls.config_file_name}: expected keys types, structure, parameters; "
                f"got {sorted(config)}"
            )
        modules = {}
        for name, type_name in config["types"].items():
            folder = files.inside(root, Path(subfolder, name))
            modules[name] = registry.load_module(type_name, root, folder.relative_to(root).as_posix(), **kwargs)
        routes = {route: [modules[name] for name in names] for route, names in config["structure"].items()}
        parameters = dict(config["parameters"])
        if parameters.get("route_mappings"):
            parameters["route_mappings"] = {_key(k): route for k, route in parameters["route_mappings"].items()}
        return cls(routes, **parameters)


def _sorted(modality: Modality | None) -> Modality | None:
    return tuple(sorted(modality)) if isinstance(modality, tuple) else modality


def _key(text: str) -> RouteKey:
    """A mapping's key from its written form, e.g. `"('query', None)"`.

    Raises:
        CheckpointError: It is not a pair.
    """
    try:
        task, modality = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError) as error:
        raise CheckpointError(f"route_mappings: expected keys like \"('query', 'text')\", got {text!r}") from error
    return task, modality
