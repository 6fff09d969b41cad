"""Where things are: the home folder, the lake, the object store, MLflow and GBIF."""

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from gbif_platform import __version__
from gbif_platform.errors import PlatformError


def default_home() -> Path:
    """`$GBIF_PLATFORM_HOME`, else `.gbif-platform` beside the project (an installed package: in the current folder)."""
    if named := os.environ.get("GBIF_PLATFORM_HOME"):
        return Path(named).expanduser().absolute()
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / ".gbif-platform"


class Settings(BaseSettings):
    """Every setting, from `GBIF_PLATFORM_*` variables, else `settings.toml` in the home folder, else the default.

    Past one machine two settings suffice: `catalog = "postgresql://…"` and `data = "s3://bucket/prefix"`.
    """

    model_config = SettingsConfigDict(env_prefix="GBIF_PLATFORM_", extra="forbid", validate_default=True)

    home: Path = Field(default_factory=default_home, description="everything the platform writes lies under it")
    catalog: str = Field("", description="lake catalogue: empty = SQLite under home, or postgresql://user@host/db")
    data: str = Field("", description="table and object data: empty = folder under home, or s3://bucket/prefix")
    mlflow_uri: str = Field("", description="MLflow tracking: empty = SQLite under home, or http(s)://server")
    gbif_url: str = Field("https://api.gbif.org", description="the GBIF endpoint; the sandbox sets its own")
    contact: str = Field("", description="e-mail or page shown to hosts in the User-Agent")
    allow_private_hosts: bool = Field(False, description="fetch from private and loopback addresses (sandbox, tests)")
    executor: Literal["multiprocess", "in_process", "ray"] = Field(
        "multiprocess", description="Dagster's step executor"
    )
    ray_address: str = Field("", description="Ray cluster, e.g. ray://head:10001 or auto; empty = one on this machine")

    automation: Literal["RUNNING", "STOPPED"] = Field(
        "STOPPED", description="whether sensors, schedules and automation start by themselves; the UI can switch each"
    )
    sensor_interval: int = Field(300, ge=1, description="seconds between two looks of a sensor at GBIF")

    fetch_on: Literal["machine", "ray"] = Field("machine", description="where pictures are fetched: here, or on Ray")
    fetch_processes: int = Field(0, ge=0, description="processes that fetch and decode; 0 = one per CPU")
    fetch_concurrency: int = Field(64, ge=1, description="image requests in flight")
    fetch_per_host: int = Field(16, ge=1, description="image requests in flight to one host at most; fewer at first")
    fetch_timeout: float = Field(
        30.0, gt=0, description="seconds for one image, connection to last byte; half, or 15, without a byte"
    )
    fetch_retries: int = Field(3, ge=0, description="further tries after a transient failure")
    fetch_max_bytes: int = Field(64 * 2**20, ge=1, description="largest body accepted")
    fetch_max_pixels: int = Field(100_000_000, ge=1, description="largest picture decoded")
    fetch_robots: str = Field(
        "noai, noimageai, noindex, noimageindex, noml, none, tdm-reservation",
        description="directives in a host's headers that keep a picture from being taken; empty = pay no heed",
    )
    fetch_gbif_cache: bool = Field(True, description="ask GBIF's image cache, one at a time, where a host fails")
    refresh_days: int = Field(0, ge=0, description="ask hosts whether a picture this old has changed; 0 = never")
    retry_failed: bool = Field(False, description="ask again for every picture that did not come, before its date too")
    shard_images: int = Field(1000, ge=1, description="pictures in one shard")
    shard_cache_gb: float = Field(20.0, ge=0, description="local copies of shards that are read from S3, at most")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over `settings.toml`."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=default_home() / "settings.toml")
        return init_settings, env_settings, toml

    @property
    def datasets(self) -> Path:
        """Folder of the user's dataset files."""
        return self.home / "datasets"

    @property
    def catalog_url(self) -> str:
        """`sqlite:/path` or `postgresql://…`."""
        return self.catalog or f"sqlite:{self.home / 'lake' / 'catalog.sqlite'}"

    @property
    def lake_data(self) -> str:
        """Folder or URL of the lake's Parquet files."""
        return f"{self.data.rstrip('/')}/lake" if self.data else str(self.home / "lake" / "data")

    @property
    def objects_url(self) -> str:
        """Folder or URL of the object store."""
        return f"{self.data.rstrip('/')}/objects" if self.data else (self.home / "objects").as_uri()

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def user_agent(self) -> str:
        """What we tell GBIF and the image hosts about ourselves."""
        return f"gbif-platform/{__version__}" + (f" (+{self.contact})" if self.contact else "")


def load_settings() -> Settings:
    """The settings in force.

    Raises:
        PlatformError: a setting has a wrong value; names it, its source is the environment or `settings.toml`; or
            `settings.toml` is no TOML.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise PlatformError(
            f"setting {name!r}: {first['msg']} (given: {first['input']!r})",
            f"correct GBIF_PLATFORM_{name.upper()} or {name} in {default_home() / 'settings.toml'}",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PlatformError(
            f"{default_home() / 'settings.toml'} cannot be read: {error}",
            "correct it; without the file the defaults are in force",
        ) from error


def fingerprint(*parts: object) -> str:
    """16 hex digits that change when any part changes; parts are compared by their `repr`."""
    return hashlib.sha256("\x1f".join(map(repr, parts)).encode()).hexdigest()[:16]
