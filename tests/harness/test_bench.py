"""What scripts/bench derives instead of measuring it."""
import os
import unittest

from . import bench_rows, bench_servers


class Derived(unittest.TestCase):
    def copied(self, ram, ring):
        before = {"cache_ram_hits": 7, "cache_ring_hits": 9}
        return bench_servers.bytes_copied(before, {"cache_ram_hits": 7 + ram, "cache_ring_hits": 9 + ring})

    def test_a_ram_hit_is_copied_once_and_a_ring_hit_twice(self):
        self.assertEqual(self.copied(ram=10, ring=0), 1)
        self.assertEqual(self.copied(ram=0, ring=10), 2)
        self.assertEqual(self.copied(ram=10, ring=10), 1.5)
        self.assertIsNone(self.copied(ram=0, ring=0))

    def test_each_server_is_first_in_some_round(self):
        self.assertEqual([bench_rows.turned(["a", "b", "c"], number)[0] for number in range(4)], ["a", "b", "c", "a"])

    def test_cpu_seconds_are_read_from_behind_the_name(self):
        times = os.times()
        self.assertAlmostEqual(bench_servers.cpu_seconds(os.getpid()), times.user + times.system, delta=0.5)


if __name__ == "__main__":
    unittest.main()
