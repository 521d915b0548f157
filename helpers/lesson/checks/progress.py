"""How many exercises of a notebook are solved, in this session."""

NAMES = {  # in the order of each notebook
    "0-Pretrain": "merge initial_loss perplexity causal_mask attention block next_token_loss "
    "learning_rate training_loop next_probs position_ids attention_cost cached_step",
    "1-SFT": "template stop_rate first_loss_row completion_mask labels token_mean masked_loop "
    "coin_floor entropy_floor",
    "1b-Adapters": "lora lora_size round_nf4",
    "2-RM-Training": "bayes_accuracy bradley_terry untrained_loss last_token pair_loop accuracy "
    "normalise best_of_n bin_accuracy",
    "3-PPO": "truncate token_logprobs total_reward token_rewards logit_gradient reinforce_loss gae "
    "whiten clipped_gradient policy_loss ppo_loop k3 explained_variance",
}
EXERCISES = {notebook: names.split() for notebook, names in NAMES.items()}
SOLVED: set[str] = set()


def count(name: str, right: bool) -> str:
    """Note whether an exercise is solved now, and say how many of its notebook are: " (3 of 9
    exercises solved)". "" for one that is not solved.
    """
    if not right:
        SOLVED.discard(name)
        return ""
    SOLVED.add(name)
    notebook = next((names for names in EXERCISES.values() if name in names), [name])
    return f" ({len(SOLVED.intersection(notebook))} of {len(notebook)} exercises solved)"
