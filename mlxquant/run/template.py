"""Chat templates: somebody else's Jinja, rendered under guard.

A template is code from the internet. The sandbox keeps it from reaching Python's objects, but it
can still loop for ever, or write `'x' * 10**10`, `9**9**9`, `'%1000000000d' % 1`: single
operations inside the interpreter that no counter can interrupt. So each rendering happens in a
short-lived child process (template_worker.py) that imports only Jinja, under four limits:

    steps     lines of template code and calls          counted in the child, the same everywhere
    output    bytes of the rendered text                counted in the child
    memory    address space (Linux), resident size      set in the child; watched and killed here
    time      CPU seconds, and wall clock               set in the child; killed here

The result is what transformers' `apply_chat_template` gives for the same template and messages.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import json
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError, TemplateError, one_line

__all__ = ["Budget", "apply_chat_template", "encode_chat", "has_chat_template", "render"]

Message = Mapping[str, Any]

WORKER = Path(__file__).with_name("template_worker.py")
RAW_HINT = "--raw prompts without a template"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What one rendering may use. The defaults are some hundred times what real templates need;
    steps, output and memory grow with the conversation that is rendered.

    Attributes:
        steps: lines of template code run plus calls made; more for every value of the input.
        output_bytes: of UTF-8 text; more for every byte of the input.
        memory_bytes: beyond what the interpreter takes; more for every byte of the input.
        cpu_seconds: of the child process.
        wall_seconds: from its start to its end; generous, for machines that are busy.
        template_bytes: the longest template that is looked at.
    """

    steps: int = 1_000_000
    output_bytes: int = 4 << 20
    memory_bytes: int = 256 << 20
    cpu_seconds: int = 3
    wall_seconds: float = 30.0
    template_bytes: int = 1 << 20


def render(template: str, variables: Mapping[str, Any], budget: Budget | None = None) -> str:
    """Render a chat template.

    Args:
        template: Jinja source.
        variables: what it sees: `messages`, `tools`, `add_generation_prompt`, `bos_token`, …
            Anything that is not JSON becomes a placeholder naming its type.
        budget: the limits; None for the defaults.

    Raises:
        TemplateError: it fails, calls `raise_exception`, reaches for what the sandbox forbids, or
            exceeds its budget.
    """
    budget = budget or Budget()
    size = len(template.encode("utf-8", "replace"))
    if size > budget.template_bytes:
        raise TemplateError(
            f"chat template: {size:,} bytes long, at most {budget.template_bytes:,} are rendered; "
            + RAW_HINT
        )
    data = json.dumps(_plain(variables))
    request = {
        "paths": _library_paths(),
        "template": template,
        "variables": json.loads(data),
        "steps": budget.steps + 200 * (data.count(",") + data.count(":")),
        "output_bytes": budget.output_bytes + 8 * len(data),
        "memory_bytes": budget.memory_bytes + 32 * len(data),
        "cpu_seconds": budget.cpu_seconds,
    }
    header, _, body = _run(request, budget).partition(b"\n")
    reply = json.loads(header)
    if reply["status"] == "ok":
        return body.decode()
    where = "chat template" if reply["line"] is None else f"chat template line {reply['line']}"
    said = {
        "failed": "{}",
        "refused": "it refuses this conversation: {}",
        "forbidden": "forbidden in a template: {}",
        "budget": "stopped, {}",
    }[reply["status"]].format(reply["message"].strip())
    hint = "" if reply["status"] == "refused" else f"; {RAW_HINT}"
    raise TemplateError(one_line(f"{where}: {said}{hint}"))


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer (mlx_lm's TokenizerWrapper) can render a conversation."""
    return bool(tokenizer.has_chat_template)


def apply_chat_template(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """A conversation as the text that the model was trained on.

    Args:
        tokenizer: mlx_lm's TokenizerWrapper, as `mlxquant.load` returns it.
        messages: `{"role", "content", …}`, at least one.
        tools, documents: JSON schemas of functions, documents to answer from; templates that know
            nothing of them ignore them.
        add_generation_prompt: end with the start of the assistant's turn.
        variables: more of what the template may ask for, e.g. `enable_thinking=False`.

    Raises:
        ModelError: the model has no chat template.
        TemplateError: as `render`.
    """
    variables.setdefault("enable_thinking", tokenizer.has_thinking)
    if not messages:
        raise TemplateError("chat template: there is no message to render")
    if getattr(tokenizer, "_chat_template", None) is not None:
        # mlx-lm's own Python renderer, for models that come without Jinja.
        options = {"tools": tools, "add_generation_prompt": add_generation_prompt, **variables}
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        except Exception as problem:
            raise TemplateError(one_line(f"chat template: {problem}; {RAW_HINT}")) from problem
        return str(text)
    return render(
        _template_of(tokenizer, tools),
        {
            **tokenizer.special_tokens_map,
            **variables,
            "messages": [_message(message) for message in messages],
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        },
    )


def encode_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> list[int]:
    """`apply_chat_template`, then token ids; the template writes the special tokens itself."""
    text = apply_chat_template(tokenizer, messages, **options)
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def _template_of(tokenizer: Any, tools: Sequence[Any] | None) -> str:
    """The tokenizer's template; of several, `tool_use` where tools are given, else `default`."""
    found = tokenizer.chat_template
    if isinstance(found, Mapping):
        name = "tool_use" if tools is not None and "tool_use" in found else "default"
        if name not in found:
            raise ModelError(
                one_line(
                    f"the model has chat templates named {', '.join(sorted(map(str, found)))} and "
                    f"none named 'default'; {RAW_HINT}"
                )
            )
        found = found[name]
    if not isinstance(found, str):
        raise ModelError(f"the model has no chat template; {RAW_HINT}")
    return found


def _message(message: Message) -> dict[str, Any]:
    """A message without keys that are None, and with its reasoning under every name that
    templates read it by."""
    present = {key: value for key, value in message.items() if value is not None}
    for key in ("reasoning_content", "thinking", "reasoning"):
        if key in present:
            reasoning = present[key]
            return {"thinking": reasoning, **present, "reasoning_content": reasoning}
    return present


def _plain(value: Any) -> Any:
    """`value` rebuilt of JSON types; anything else is replaced by the name of its type."""
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _library_paths() -> list[str]:
    """Where the child finds Jinja: the folders that hold the two packages here."""
    found = []
    for name in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise TemplateError(f"chat template: the package {name} is missing: pip install jinja2")
        found.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(found))


def _run(request: Mapping[str, Any], budget: Budget) -> bytes:
    """The child's reply; the child is gone when this returns."""
    deadline = time.monotonic() + budget.wall_seconds
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us, not for the child
    )
    try:
        with contextlib.suppress(BrokenPipeError):
            assert child.stdin is not None
            child.stdin.write(json.dumps(request).encode())
            child.stdin.close()
        reply = _watch(child, request, deadline)
        status = child.wait()
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
    if status == 0 and reply.startswith(b"{"):
        return reply
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise TemplateError(
            f"chat template: stopped, it takes more than {budget.cpu_seconds} seconds; {RAW_HINT}"
        )
    raise TemplateError(f"chat template: it crashed the renderer (status {status}); {RAW_HINT}")


def _watch(child: subprocess.Popen[bytes], request: Mapping[str, Any], deadline: float) -> bytes:
    """Collect what the child writes until it closes its end.

    Raises: TemplateError when it takes too long, too much memory or writes too much; the caller
    kills it.
    """
    assert child.stdout is not None
    # The interpreter itself takes some 30 MB before the template is looked at.
    ceiling = request["memory_bytes"] + (64 << 20) + 4 * len(request["template"])
    most = request["output_bytes"] + (1 << 16)
    reply = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(0.005):
                piece = child.stdout.read1(1 << 20)  # type: ignore[attr-defined]
                if not piece:
                    return bytes(reply)
                reply += piece
                if len(reply) > most:
                    raise TemplateError(f"chat template: stopped, it writes too much; {RAW_HINT}")
            elif _resident_bytes(child.pid) > ceiling:
                raise TemplateError(f"chat template: stopped, it takes too much memory; {RAW_HINT}")
            elif time.monotonic() > deadline:
                raise TemplateError(f"chat template: stopped, it takes too long; {RAW_HINT}")


def _resident_bytes(pid: int) -> int:
    """Resident size of a child process; 0 when it is gone."""
    if sys.platform == "darwin":
        # struct proc_taskinfo: virtual size and resident size (uint64), then 80 bytes of counters
        info = (ctypes.c_uint64 * 12)()
        libc = ctypes.CDLL(None)
        got = libc.proc_pidinfo(pid, 4, ctypes.c_uint64(0), ctypes.byref(info), ctypes.sizeof(info))
        return int(info[1]) if got == ctypes.sizeof(info) else 0
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()
