"""Learning from the policy's own fresh responses: sampling, rewards, rollouts, and the trainer around them."""
