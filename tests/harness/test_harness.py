"""The nets of the stories, each with a planted fault that must trip it: `scripts/test unit` runs them."""
import io
import socket
import tempfile
import time
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

from . import bystander, cache, cpio, crowd, nfs3, recovery, stories
from .daemon import Daemon

WARNING = '{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","message":"went on, degraded"}\n'
PANIC = "thread 'main' panicked at src/main.rs:1:1:\n"
RECOVERED = recovery.Recovered("1", "/export", "folder", ["disk"])
FINE = '{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"ready"}\n'


class Nets(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def log(self, text, allowed=()):
        daemon = Daemon(self.folder / "state", allowed=allowed)
        daemon.log.write_text(text)
        return daemon

    def test_an_unlisted_warning_or_panic_fails_the_story(self):
        self.log(FINE).check_log()
        for bad in [WARNING, PANIC]:
            with self.assertRaises(RuntimeError):
                self.log(FINE + bad).check_log()

    def test_a_listed_warning_does_not(self):
        self.log(WARNING, allowed=["degraded"]).check_log()

    def test_a_check_that_does_not_hold_raises(self):
        with redirect_stdout(io.StringIO()):
            stories.expect("this holds", True)
        with self.assertRaises(AssertionError):
            stories.expect("this does not", False)

    def test_a_condition_that_does_not_come_true_raises(self):
        self.assertEqual(stories.until("it is true", lambda: 7), 7)
        with self.assertRaises(AssertionError):
            stories.until("it is not", lambda: 0, seconds=0.05)

    def bystander(self, read):
        """A bystander whose client reads so."""
        client = mock.MagicMock()
        client.__enter__.return_value.read = read
        with mock.patch.object(nfs3, "Client", return_value=client):
            with bystander.Bystander(RECOVERED, 1, 256) as started:
                return started.during(lambda: time.sleep(0.1))[1]

    def test_a_bystander_tells_a_wrong_byte_an_error_and_a_hang(self):
        def good(_, offset, length):
            return recovery.original(1, offset // length)

        def slow(*arguments):
            time.sleep(0.02)
            return good(*arguments)

        self.assertTrue(self.bystander(good))
        for bad in [lambda *_: bytes(recovery.BLOCK - 1) + b"x", mock.Mock(side_effect=nfs3.Lost("gone"))]:
            with self.assertRaises(AssertionError):
                self.bystander(bad)
        with mock.patch.object(bystander, "HANG_SECONDS", 0.01), self.assertRaises(AssertionError):
            self.bystander(slow)

    def test_the_crowd_tells_a_wrong_answer_and_a_connection_that_is_kept(self):
        crowd.must_be("this", 3, 2, 3)
        with self.assertRaises(AssertionError):
            crowd.must_be("this", 4, 2, 3)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0.05)
            with self.assertRaises(AssertionError):
                crowd.must_hang_up(ours, "silence")
            theirs.send(b"x")
            with self.assertRaises(AssertionError):
                crowd.must_hang_up(ours, "an answer")
            theirs.close()
            crowd.must_hang_up(ours, "an end")

    def test_half_a_fixture_is_never_found(self):
        def broken(into):
            (into / "half").write_text("")
            raise RuntimeError("cut off")

        with mock.patch.object(cache, "ROOT", self.folder):
            with self.assertRaises(RuntimeError):
                cache.keyed("thing", [__file__], broken)
            made = cache.keyed("thing", [__file__], lambda into: (into / "whole").write_text(""))
            self.assertEqual([path.name for path in made.iterdir()], ["whole"])

    def test_no_two_blocks_of_test_data_are_alike(self):
        blocks = {recovery.block(disk, number) for disk in range(8) for number in range(512)}
        self.assertEqual(len(blocks), 8 * 512)

    def test_an_archive_has_its_members_at_multiples_of_four(self):
        out = io.BytesIO()
        archive = cpio.Archive(out)
        archive.data("a/b", b"12345", 0o755)
        archive.close()
        data = out.getvalue()
        self.assertEqual(len(data) % 4, 0)
        for name in [b"a\0", b"a/b\0", b"TRAILER!!!\0"]:
            self.assertEqual((data.index(name) - 110) % 4, 0, name)


if __name__ == "__main__":
    unittest.main()
