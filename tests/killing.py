"""Code that runs before a training run in a process of its own, and kills it."""

AT_STEP_2 = """
import os, signal
from rlaif.training.trainer import PolicyTrainer
learn = PolicyTrainer.learn
def deadly(self, *args):
    if self.state.global_step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, *args)
PolicyTrainer.learn = deadly
"""
