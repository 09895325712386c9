"""A task that is learned in a minute: answer each number with the same number."""

import gymnasium as gym
import numpy as np


class Echo(gym.Env):
    """Reward is 1 - |action - number|, and the next number is drawn anew; 16 steps."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action):
        reward = 1 - abs(float(action[0]) - float(self.number[0]))
        self.steps += 1
        return self._draw(), reward, False, self.steps == 16, {}

    def _draw(self):
        self.number = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.number
