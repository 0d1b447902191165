"""What is shown: here, what the library logs."""

import logging

from ifcheck.cli import terminal


def test_what_is_logged_is_shown_once_as_a_note(monkeypatch, capsys):
    monkeypatch.setattr(terminal.settings, "quiet", False)
    terminal.show_logged_notes()
    terminal.show_logged_notes()
    logging.getLogger("ifcheck.somewhere").info("%s [happens]", "this")
    shown = capsys.readouterr()
    assert shown.err == "note: this [happens]\n"
    assert shown.out == ""


def test_quiet_keeps_it_away(monkeypatch, capsys):
    monkeypatch.setattr(terminal.settings, "quiet", True)
    terminal.show_logged_notes()
    logging.getLogger("ifcheck.somewhere").info("this happens")
    assert capsys.readouterr().err == ""
