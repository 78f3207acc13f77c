"""Questions to the rollout log, in SQL.

    from pipeline.analysis import open_run

    run = open_run("last")
    run.sql("SELECT turn_index, avg(gain) FROM turns GROUP BY ALL ORDER BY ALL").show()
    run.turns().filter("gold_hit AND gain < 0").df()
    run.named("advantage_collapse").pl()

Costs neither torch nor Ray.
"""

from pipeline.analysis.locate import AnalysisError, RunLocation, locate_run
from pipeline.analysis.named_queries import NamedQuery, named_queries
from pipeline.analysis.run import Run, open_run

__all__ = ["AnalysisError", "NamedQuery", "Run", "RunLocation", "locate_run", "named_queries", "open_run"]
