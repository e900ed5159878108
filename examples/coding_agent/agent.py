"""A coding agent: the model writes a function, its tests are run here, and it may mend what they find.

What a model has written is run, so the recipe puts walls around this program: it finds itself in /agent,
writes in /work, and reaches the model and nothing else. Standard library only.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request

TRIES = 2
SECONDS = 5
RUN = """\
import json, sys
from solution import f
print()
print(json.dumps([f(*arguments) for arguments in json.load(sys.stdin)]))
"""


def solve(task):
    """The share of the tests that the last version passes."""
    messages = [{"role": "user", "content": f"{task['question']} Reply with the Python code of `f` alone."}]
    passed = 0.0
    for _ in range(TRIES):
        text = ask(messages)
        passed, told = run_tests(code_in(text), task["tests"])
        if passed == 1.0:
            break
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": f"{told} Write `f` again."},
        ]
    return passed


def ask(messages):
    body = json.dumps({"model": os.environ["OPENAI_MODEL"], "messages": messages}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["message"]["content"] or ""


def code_in(text):
    """The first block of code, or all of it where there is none."""
    block = re.search(r"```(?:python|py)?\s*\n(.*?)(?:```|$)", text, re.DOTALL)
    return block.group(1) if block else text


def run_tests(code, tests):
    """The share that is right, and what the model is told. The code sees the arguments, not the answers."""
    with open("/work/solution.py", "w") as file:
        file.write(code)
    command = [sys.executable, "-c", RUN]
    arguments = json.dumps([given for given, _ in tests])
    try:
        done = subprocess.run(
            command,
            input=arguments,
            capture_output=True,
            text=True,
            errors="replace",  # what the model's code prints may be anything
            timeout=SECONDS,
            cwd="/work",
        )
    except subprocess.TimeoutExpired:
        return 0.0, f"error: it did not end in {SECONDS} s."
    found = results(done.stdout)
    if len(found) != len(tests):
        return 0.0, f"error: {done.stderr.strip()[-200:]}"
    wrong = [
        f"f({', '.join(map(repr, given))}) is {answer!r}, not {was!r}."
        for (given, answer), was in zip(tests, found, strict=True)
        if was != answer
    ]
    return 1 - len(wrong) / len(tests), " ".join(wrong[:1])


def results(printed):
    """What the last line holds; nothing where the code did not come so far, or printed something else."""
    try:
        found = json.loads(printed.rpartition("\n\n")[2])
    except ValueError:
        return []
    return found if isinstance(found, list) else []


if __name__ == "__main__":
    print(json.dumps({"reward": solve(json.load(sys.stdin))}))
