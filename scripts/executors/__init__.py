"""What scripts/bench_executors.py measures, by idea; ``clusters`` and ``trouble`` serve the slow tests as well."""
