"""Runs a chat on standard input. /help lists the commands."""

from ..common.errors import Unanswerable, Unservable
from .conversation import Answer, Conversation
from .keyboard import Key, Keyboard
from .screen import Shows

REST_S = 0.1  # longest wait for a line before the nodes' messages are read again
COMMANDS = {
    "/reset": "begin a new conversation",
    "/route": "which node runs which layers now",
    "/stats": "tokens/s and where each node's time goes",
    "/quit": "leave (also Ctrl-D; Ctrl-C stops an answer, and twice leaves)",
}


def chat(conversation: Conversation, keyboard: Keyboard, screen: Shows) -> int:
    """Answer line after line until the end. -> how many lines could not be answered."""
    failed = interrupts = 0
    if not keyboard.sees_the_end:
        screen.tell("the end of this input cannot be seen here: let its last line be /quit")
    screen.ready_for_a_line()
    while True:
        match next_line(conversation, keyboard):
            case Key.END:
                return failed
            case str(line) if line.strip() == "/quit":
                return failed
            case Key.INTERRUPT:
                interrupts += 1
                if interrupts > 1:
                    return failed
                screen.tell("once more, or /quit, to leave")
            case Key.UNREADABLE:
                failed += 1
                screen.tell("a line is not UTF-8 text, and was not read")
            case Key.TOO_LONG:
                failed += 1
                screen.tell(
                    "a terminal cuts lines of over 4,000 bytes, and this one was not read: use a pipe or "
                    "--prompts FILE"
                )
            case str(line) if line.startswith("/") and not line.startswith("//"):
                interrupts = 0
                failed += not command(line.strip(), conversation, screen)
            case str(line) if line.strip():
                interrupts = 0
                question = line.removeprefix("/") if line.startswith("//") else line
                answer = ask(question, conversation, screen)
                failed += answer is None
                if answer and answer.ended == "interrupted":
                    keyboard.acted()
                    interrupts = 1
        screen.ready_for_a_line()


def ask(question: str, conversation: Conversation, screen: Shows) -> Answer | None:
    """Answer one line; None if it could not be answered: the chat goes on.
    Raises Unservable if too few nodes are left."""
    try:
        asked = conversation.ids_with(question)
    except Unservable as error:
        screen.tell(f"{error}: /reset begins a new conversation" if conversation.ids else str(error))
        return None
    try:
        return conversation.ask_ids(question, asked)
    except Unanswerable as error:
        screen.tell(f"{error}: a new conversation begins")
        conversation.reset()
        return None


def next_line(conversation: Conversation, keyboard: Keyboard) -> str | Key:
    """Wait for a line, and meanwhile read what becomes of the nodes."""
    while (line := keyboard.next(REST_S)) is None:
        conversation.asker.rest()
    return line


def command(words: str, conversation: Conversation, screen: Shows) -> bool:
    """Run a command. -> whether there is such a one."""
    match words:
        case "/reset":
            conversation.reset()
            screen.tell("a new conversation")
        case "/route":
            try:
                screen.way(conversation.asker.cluster)
            except Unservable as error:  # for now: a node may be back before the next question
                screen.tell(str(error))
        case "/stats":
            screen.summary(conversation.asker.cluster, conversation.record.path)
        case _:
            if words != "/help":
                screen.tell(
                    f"{words.split()[0]} is no command; a line that begins with // is asked with one / less"
                )
            for name, what in COMMANDS.items():
                screen.tell(f"{name:8}{what}")
            return words == "/help"
    return True
