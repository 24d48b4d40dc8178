"""The examples: the chat builds and talks; the app is compiled as far as that is possible here."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

from support import REPOSITORY, run_cli
from swift_package.toolchain import MARKS, program, run_swift, tool

from mlxquant import export_swift

pytestmark = MARKS

EXAMPLES = REPOSITORY / "swift-bridge/Examples"
APP = EXAMPLES / "ChatApp"


@cache
def built() -> Path:
    """The folder of what `swift build` makes of the chat.

    The chat is another package, which has this one by its path, unoptimized, and sees only what is
    public.
    """
    done = run_swift("build", "-j", "2", cwd=EXAMPLES / "chat")
    assert done.returncode == 0 and "warning:" not in done.stdout, done.stdout[-4000:]
    return EXAMPLES / "chat/.build/debug"


def run(*args: str | Path, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        args, input=input, capture_output=True, encoding="utf-8", timeout=600, check=False
    )


def swiftc(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return run(tool("swiftc"), *args)


def test_the_chat_talks(tmp_path: Path) -> None:
    """From an exported folder, two turns; the first is what `generate` makes of it."""
    export_swift(output=tmp_path / "app")
    # without what it recommends for sampling, the model's answers are always the same
    (tmp_path / "app/generation_config.json").write_text('{"eos_token_id": [4091, 4094]}')
    chat = built() / "chat"
    done = run(chat, tmp_path / "app", "3", input="Where is the king?\nAnd then?\n\n")
    assert done.returncode == 0, done.stderr
    tool = program("mlxquant-swift")
    asked = ("-p", "Where is the king?", "-n", "3", "--quiet")
    alone = run(tool, "generate", tmp_path / "app", *asked)
    assert alone.returncode == 0, alone.stderr
    assert done.stdout.startswith(alone.stdout) and len(done.stdout) > len(alone.stdout) > 1
    assert run(chat).returncode == 2 and run(chat, "x", "0").returncode == 2
    missing = run(chat, tmp_path / "nothing")
    assert missing.returncode == 2 and "nothing" in missing.stderr


#: a program that does with the app's conversation what its view does
DRIVER = """
import Foundation

@main
struct Driver {
    @MainActor
    static func main() async {
        let folder = URL(fileURLWithPath: CommandLine.arguments[1])
        let conversation = Conversation(maxTokens: 3)
        await conversation.load(folder.appendingPathComponent("nothing"))
        if case .failed(let reason) = conversation.state { print("failed:", reason) }
        print(conversation.send("Too early"))
        await conversation.load(folder)
        print(conversation.state, conversation.send("  "))
        print(conversation.send(" Where is the king?"), conversation.send("Too soon"))
        await settled(conversation)
        print(conversation.turns.count, conversation.turns[1].text)
        // stopped before there is a word: question and answer are gone
        print(conversation.send("And then?"))
        conversation.stop()
        await settled(conversation)
        print(conversation.turns.count, conversation.problem ?? "no problem")
        // stopped in the middle: what was said stays
        let long = Conversation(maxTokens: 10_000)
        await long.load(folder)
        print(long.send("Where is the king?"))
        while long.turns[1].text.isEmpty { await Task.yield() }
        long.stop()
        await settled(long)
        print(long.turns.count, long.turns[1].text.count < 100)
    }

    @MainActor
    static func settled(_ conversation: Conversation) async {
        while conversation.state == .answering { await Task.yield() }
    }
}
"""


def test_the_app_s_conversation(tmp_path: Path) -> None:
    """What the view shows, compiled strictly and run: errors, answers, some of them stopped."""
    app = tmp_path / "app"
    export_swift(output=app)
    (app / "generation_config.json").write_text('{"eos_token_id": [4091, 4094]}')
    (tmp_path / "Driver.swift").write_text(DRIVER, encoding="utf-8")
    linked = shlex.split((built() / "chat.product/Objects.LinkFileList").read_text("utf-8"))
    library = ("MLXQuantFormats.build", "MLXQuantRuntime.build")
    objects = [file for file in linked if Path(file).parent.name in library]
    strict = ("-swift-version", "6", "-warnings-as-errors", "-parse-as-library")
    done = swiftc(
        *strict,
        *("-I", built() / "Modules", "-o", tmp_path / "driver"),
        *(APP / "Conversation.swift", tmp_path / "Driver.swift", *objects),
    )
    assert done.returncode == 0, done.stderr[:3000]
    said = run(tmp_path / "driver", app)
    assert said.returncode == 0, said.stderr[-3000:]
    failed, *lines = said.stdout.splitlines()
    assert failed.startswith("failed:") and "nothing" in failed
    chat = run(built() / "chat", app, "3", input="Where is the king?\n\n")
    answer = chat.stdout.removesuffix("\n")
    assert len(answer) > 1
    assert lines == [
        *("false", "idle false", "true false", f"2 {answer}"),
        *("true", "2 no problem", "true", "2 true"),
    ]


def test_the_app_s_views_parse(tmp_path: Path) -> None:
    """As on a Mac, where their condition holds; and the parser does refuse what is wrong."""
    for name in ("ChatApp.swift", "ChatView.swift"):
        text = (APP / name).read_text(encoding="utf-8")
        assert text.startswith("#if canImport(SwiftUI)")
        seen = text.replace("#if canImport(SwiftUI)", "#if true", 1)
        for content, status in ((seen, 0), (seen.replace("}", "", 1), 1)):
            (tmp_path / name).write_text(content, encoding="utf-8")
            parsed = swiftc("-frontend", "-parse", tmp_path / name)
            assert parsed.returncode == status, parsed.stderr


def test_the_tutorial_s_commands_work(tmp_path: Path) -> None:
    """Every `mlxquant` line of the tutorial's shell blocks, in order."""
    page = (REPOSITORY / "docs/swift-tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    commands = [
        line.split("#")[0].split()[1:]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("mlxquant ")
    ]
    assert [words[0] for words in commands] == ["quantize", "export", "inspect"]
    (tmp_path / "App").mkdir()
    for words in commands:
        done = run_cli(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "App/Model/ModelInfo.swift").exists()


def test_the_tutorial_shows_the_example() -> None:
    """Its Swift blocks that are marked as an example's are in the example, line by line."""
    page = (REPOSITORY / "docs/swift-tutorial.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- from (\S+) -->\n```swift\n(.*?)```", page, re.S)
    assert len(shown) >= 2
    for name, block in shown:
        lines = [line.strip() for line in (EXAMPLES / name).read_text("utf-8").splitlines()]
        for line in block.splitlines():
            assert line.strip() in lines, f"{name} has no line {line.strip()!r}"
