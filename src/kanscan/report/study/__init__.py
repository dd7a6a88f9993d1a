"""The table of a study: several networks on several data sets, repeated, beside what a paper prints."""

from kanscan.report.study.build import Measured, build_table
from kanscan.report.study.schema import StudyTable
from kanscan.report.study.write import write_table

__all__ = ["Measured", "StudyTable", "build_table", "write_table"]
