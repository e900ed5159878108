"""OpenAI's Codex, a coding agent of the command line, mends a program: its tests are the reward.

Codex is told where the model is, by the API of responses, and is changed in nothing. It runs what the model
orders, so the recipe puts walls around this program; Codex's own stay down. Standard library only.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = Path("/work/program")
CONFIG = """\
model = {model}
model_provider = "gateway"
model_instructions_file = "/work/instructions.md"
approval_policy = "never"
sandbox_mode = "danger-full-access"
web_search = "disabled"
check_for_update_on_startup = false
include_permissions_instructions = false
include_environment_context = false
[analytics]
enabled = false
[skills]
include_instructions = false
[agents]
enabled = false
[features]
goals = false
view_image = false
[model_providers.gateway]
name = "gateway"
base_url = {url}
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
"""What a small model has no room for is left out: of 40 kB that Codex tells of itself and its tools, 4 stay.
It is told no ``model_context_window``: near its end it would go on from a summary, which is a new branch."""
INSTRUCTIONS = "You mend programs in this folder with the shell. When the program is right, say so."
OF_THE_MODEL = (
    "ran out of room in the model's context window",
    "Incomplete response returned, reason: max_output_tokens",
    '"type":"invalid_request_error"',
)
"""Codex's words when the conversation is too long, an answer was cut, or the gateway refuses a call, as it
does beyond the attempt's limits. It ends there, and what it has done counts. Other ends are failures."""
RUN = """\
import json, sys
from program import f
print()
print(json.dumps([f(*arguments) for arguments in json.load(sys.stdin)]))
"""


def mend(task):
    """The share of the tests that the program passes when Codex has ended."""
    PLACE.mkdir(parents=True)
    (PLACE / "program.py").write_text(task["program"])
    home = Path("/work/codex")
    home.mkdir()
    model, url = (json.dumps(os.environ[name]) for name in ("OPENAI_MODEL", "OPENAI_BASE_URL"))
    (home / "config.toml").write_text(CONFIG.format(model=model, url=url))
    Path("/work/instructions.md").write_text(INSTRUCTIONS)
    command = [codex(), "exec", "--ephemeral", "--skip-git-repo-check", "--cd", str(PLACE), task["question"]]
    environment = os.environ | {"CODEX_HOME": str(home)}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    print(done.stdout, done.stderr, file=sys.stderr)
    if done.returncode and not any(each in done.stderr for each in OF_THE_MODEL):
        sys.exit(f"Codex ended with {done.returncode}")
    return passed(task["tests"])


def codex():
    """The program itself, which npm wraps into one of Node's."""
    found = [*HERE.glob("node_modules/@openai/codex-*/vendor/*/bin/codex")]
    if not found:
        sys.exit("Codex is not installed: npm install --prefix examples/cli_agent")
    return str(found[0])


def passed(tests):
    """What runs the program sees the arguments, not the answers."""
    given = json.dumps([arguments for arguments, _ in tests])
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            input=given,
            capture_output=True,
            text=True,
            errors="replace",  # what the program prints may be anything
            timeout=5,
            cwd=PLACE,
        )
        found = json.loads(done.stdout.rpartition("\n\n")[2])
    except (subprocess.TimeoutExpired, ValueError):
        return 0.0
    if not isinstance(found, list) or len(found) != len(tests):
        return 0.0
    return sum(was == answer for was, (_, answer) in zip(found, tests, strict=True)) / len(tests)


if __name__ == "__main__":
    print(json.dumps({"reward": mend(json.load(sys.stdin))}))
