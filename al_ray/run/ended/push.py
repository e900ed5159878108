"""A model's folder, given to a Hugging Face hub: the one that HF_ENDPOINT names, or Hugging Face's own."""

from __future__ import annotations

from pathlib import Path

from al_ray.errors import Problem, UserError


def pushed(folder: Path, name: str) -> str:
    """Upload to the repository ``OWNER/NAME``, made private where there is none; returns its address. Raises
    ``UserError`` where the hub does not answer, or does not let us; ``folder`` stays."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    unreachable = HfHubHTTPError.__bases__[0]  # of the HTTP library that the client is made with
    hub = HfApi()
    try:
        repository = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"al-ray export: {folder.name}")
    except (unreachable, HFValidationError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        cure = f"{hub.endpoint}: {told}; log in with `hf auth login` or HF_TOKEN"
        raise UserError(Problem("--push", name, f"{cure}. The model is in {folder}")) from error
    return repository.url
