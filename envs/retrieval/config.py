"""Settings of the retriever (`env_config.retriever`), validated before anything starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from envs.settings import ImportPath, Settings, known_or_own


class DenseSettings(Settings):
    """Nearest neighbours of a sentence encoder's embeddings (kinds `dense` and `hybrid`)."""

    encoder: str = Field(description="folder or hub name of a sentence-transformers or Hugging Face encoder")
    index: Literal["flat", "hnsw"] = Field(
        "flat", description="`flat`: exact; `hnsw`: approximate, for millions of passages"
    )
    query_prefix: str = Field(
        "", description="text that the encoder expects before a query, such as `query: ` for E5"
    )
    passage_prefix: str = Field(
        "", description="text that the encoder expects before a passage, such as `passage: ` for E5"
    )
    device: str = Field("cpu", description="where the encoder runs: `cpu`, `cuda`, `cuda:1`")
    batch_size: int = Field(64, ge=1, description="passages encoded at once")


class RemoteSettings(Settings):
    """Address and limits of a server."""

    url: str
    timeout: float = Field(
        20.0, gt=0, description="seconds from a request to the end of its answer after which it has failed"
    )
    retry_for: float = Field(
        30.0, ge=0, description="seconds in which a failed attempt is tried again; at most tool_timeout"
    )
    max_answer_mib: float = Field(
        16.0, gt=0, description="MiB of one answer, unpacked; a longer one is a failed call"
    )
    max_concurrency: int = Field(16, ge=1, description="requests under way at once, per process")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be an address such as http://127.0.0.1:8000/retrieve")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "an address in an experiment file is logged, so it may carry neither credentials nor a "
                "query string"
            )
        return url


class HTTPSettings(RemoteSettings):
    """A server of Search-R1's wire format, such as `igpo serve-retriever`."""

    url: str = Field("http://127.0.0.1:8000/retrieve", description="where to POST")


class WebSettings(RemoteSettings):
    """Google through Serper's JSON API. The key is read from the environment and never written anywhere."""

    url: str = Field("https://google.serper.dev/search", description="where to POST")
    api_key_variable: str = Field(
        "SERPER_API_KEY", description="name of the environment variable that holds the key"
    )


class RetrieverSettings(Settings):
    """The kind of the retriever, and the section of that kind; sections of other kinds are not read."""

    kind: Annotated[
        Literal["bm25", "dense", "hybrid", "http", "web"] | ImportPath,
        known_or_own("bm25", "dense", "hybrid", "http", "web"),
    ] = Field("bm25", description="what finds documents; `module:function` for your own")
    top_k: int = Field(1, ge=1, description="documents shown per query")
    arguments: dict[str, Any] = Field({}, description="keyword arguments of a retriever of your own")
    dense: DenseSettings | None = Field(None, description="needed by `dense` and `hybrid`")
    http: HTTPSettings | None = Field(None, description="None: the defaults")
    web: WebSettings | None = Field(None, description="None: the defaults")

    @property
    def patience(self) -> float:
        """Seconds for which a failed search is retried."""
        remote = {"http": self.http or HTTPSettings(), "web": self.web or WebSettings()}.get(self.kind)
        return remote.retry_for if remote else 0.0

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own, which may bring its documents itself."""
        return ":" in self.kind

    @model_validator(mode="after")
    def _check(self):
        if self.kind in ("dense", "hybrid") and self.dense is None:
            raise ValueError(f"kind `{self.kind}` needs an encoder: `dense: {{encoder: FOLDER}}`")
        if self.arguments and not self.is_own:
            raise ValueError(f"`arguments` are for a retriever of your own, `{self.kind}` takes none")
        return self
