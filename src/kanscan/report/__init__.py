"""Report: a row a case, means with intervals, where it came from, what the paper says; JSON first, all else drawn."""

from kanscan.report.assemble import Judged, assemble, judge
from kanscan.report.comparison import Comparison, compare_reports
from kanscan.report.pictures import draw_case, worth_a_look
from kanscan.report.printed import add_printed
from kanscan.report.schema import ALL_CLASSES, CaseScores, Picture, Provenance, Report
from kanscan.report.write import draw_again, write_report

__all__ = [
    "ALL_CLASSES",
    "CaseScores",
    "Comparison",
    "Judged",
    "Picture",
    "Provenance",
    "Report",
    "add_printed",
    "assemble",
    "compare_reports",
    "draw_again",
    "draw_case",
    "judge",
    "worth_a_look",
    "write_report",
]
