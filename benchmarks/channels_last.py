"""What channels-last order gains in training: python -m benchmarks.channels_last

Per student's image tower, float32, forward and backward of one batch by turns in the order that torch makes and in channels-last order
(`distill.core.clip.channels_last`), BatchNorms with fixed statistics. Printed: the median of the rounds' ratios, least and greatest.
"""

import argparse
import copy
import datetime
import os
import platform
import statistics
import time

import torch
from torch import nn

from distill.core.clip.channels_last import channels_last
from students.spec import STUDENTS
from students.student import build_student

TOWERS = ("timm:tf_efficientnet_lite0@192+text:1x64", "mci0", "timm:mobilenetv4_conv_small+text:1x64")


def seconds(tower: nn.Module, pixels: torch.Tensor) -> float:
    began = time.perf_counter()
    tower(pixels).sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(TOWERS), help="names, at their own image size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}, {datetime.date.today()}\n"
    )
    print("| image tower | times as fast |\n|---|---:|")
    for name in given.students:
        student = build_student(STUDENTS.get(name), 0)
        usual = student.clip.visual.eval()
        pixels = torch.randn(given.batch, 3, student.image_size, student.image_size)
        other = copy.deepcopy(usual)
        with channels_last(other):
            seconds(usual, pixels), seconds(other, pixels)
            ratios = [seconds(usual, pixels) / seconds(other, pixels) for _ in range(given.rounds)]
        print(f"| {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)


if __name__ == "__main__":
    main()
