"""Writing a model: to a directory, and to the Hugging Face Hub."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omnitune.errors import InputError
from omnitune.model import checkpoint
from omnitune.model.graph import Graph
from omnitune.report import card


class HubMixin:
    """`save_pretrained`, `save` and `push_to_hub` of a model."""

    graph: Graph | None
    forward_kwargs: Mapping[str, Sequence[str]]
    named_children: Any
    parameters: Any
    _model_config: Any

    def save_pretrained(
        self,
        path: str,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Write a directory that omnitune, Sentence Transformers and other readers of its format load.

        Args:
            path: The directory; made when missing.
            model_name: Name for the model card.
            create_model_card: Whether to write `README.md`.
            train_datasets: Names of training datasets, for the model card.
            safe_serialization: Must be True: only safetensors are written.

        Raises:
            InputError: `safe_serialization` is False, weights are sharded over ranks, or a graph stands for them.
            ResourceError: The disk is full; what `path` held before is kept.

        Example:
            >>> reranker.save_pretrained("reranker")  # any family
            >>> CrossEncoder("reranker").num_labels
            1
        """
        if not safe_serialization:
            raise InputError("safe_serialization: expected True, got False; only safetensors files are written")
        if self.graph is not None:
            raise InputError(
                f"save_pretrained: expected weights, got a graph; copy {self.graph.folder.parent}, or load the model "
                "with backend='torch'"
            )
        if any(hasattr(parameter, "full_tensor") for parameter in self.parameters()):
            raise InputError(
                "save_pretrained: expected whole weights, got weights that are sharded over ranks; call "
                "trainer.save_model, or on every rank enter omnitune.engine.fsdp_sync.whole(model) first"
            )
        written = partial(card.write, self, model_name=model_name, train_datasets=train_datasets)
        checkpoint.save(
            Path(path),
            dict(self.named_children()),
            self._model_config(),
            self.forward_kwargs,
            card=written if create_model_card else None,
        )

    def save(
        self,
        path: str,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """The same as `save_pretrained`."""
        self.save_pretrained(path, model_name, create_model_card, train_datasets, safe_serialization)

    def push_to_hub(
        self,
        repo_id: str,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str | None = None,
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: list[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to a repository of the Hugging Face Hub, made when missing.

        Args:
            repo_id: Repository, with its owner.
            token: Access token.
            private: Whether a new repository is private.
            safe_serialization: Must be True.
            commit_message: First line of the commit.
            local_model_path: Upload this directory instead of the model in memory.
            exist_ok: Whether the repository may exist.
            replace_model_card: Whether to overwrite the repository's `README.md`.
            train_datasets: Names of training datasets, for the model card.
            revision: Branch to upload to; made when missing.
            create_pr: Open a pull request instead of committing.

        Returns:
            URL of the commit, or of the pull request.

        Example:
            >>> model.push_to_hub("owner/manuals", private=True)  # needs a token  # doctest: +SKIP
            'https://huggingface.co/owner/manuals/commit/...'
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=exist_ok or create_pr).repo_id
        if revision is not None:
            api.create_branch(repo_id=repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            if local_model_path is None:
                with_card = replace_model_card or not api.file_exists(repo_id, "README.md", revision=revision)
                self.save_pretrained(folder, repo_id, with_card, train_datasets, safe_serialization)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=local_model_path or folder,
                commit_message=commit_message or f"Add new {type(self).__name__} model",
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.pr_url if create_pr else commit.commit_url)
