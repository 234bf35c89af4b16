"""Every guard named in docs/correctness.md fails where the fault is there: it is put in, and the
test must notice.

Each case changes one place in a copy of the package and runs its guards against the copy, which
takes minutes in all: run with -m slow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INVARIANCE, EXACT = "tests/test_invariance.py", "tests/test_exact.py"
TRAIN, RUN = "tests/training/test_fit.py", "tests/runs/test_run.py"
ELBO, KL, VAE = (
    "tests/objectives/test_elbo.py",
    "tests/distributions/test_kl.py",
    "tests/models/test_vae.py",
)
IWAE, DREG, BOUNDS = (
    "tests/objectives/test_iwae.py",
    "tests/objectives/test_dreg.py",
    "tests/test_bounds.py",
)
COMPILED = "tests/training/test_compiled.py"
BETA_TC, FACTOR_VAE = "tests/objectives/test_beta_tc.py", "tests/objectives/test_factor_vae.py"
LIKELIHOODS, POSTERIORS = "tests/likelihoods", "tests/posteriors"


@dataclass(frozen=True)
class Mutant:
    """One fault, put in.

    Args:
        number: of the fault on the page.
        what: the fault.
        file: below src/lowerbound.
        old: what stands there, exactly once.
        new: what the fault writes there.
        guards: the tests that must fail, as file::name; of a contract, folder::name.
    """

    number: int
    what: str
    file: str
    old: str
    new: str
    guards: tuple[str, ...]


MUTANTS = [
    Mutant(1, "nll is +log p", "evaluation/measurements.py", "nll=-weighted.log_marginal", "nll=weighted.log_marginal",
           (f"{INVARIANCE}::test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_and_the_order",
            "tests/evaluation/test_evaluate.py::test_the_nll_falls_with_the_samples_and_lies_below_the_negative_elbo")),
    Mutant(2, "whole chunks, divided by K", "evaluation/evidence.py", "min(size, samples - start)", "size",
           (f"{EXACT}::test_the_evidence_uses_exactly_k_samples_whatever_the_chunk",)),
    Mutant(2, "no -log K", "evaluation/evidence.py", "terms = draw.log_w + draw.log_m + math.log(share)",
           "terms = draw.log_w",
           (f"{EXACT}::test_at_the_exact_posterior_every_weight_is_the_evidence",
            f"{INVARIANCE}::test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_and_the_order")),
    Mutant(2, "the last chunk counts as a whole one", "evaluation/evidence.py", "context[rows], draws), draws, samples)",
           "context[rows], draws), size, samples)",
           (f"{EXACT}::test_the_chunk_changes_nothing_but_rounding_given_the_same_noise",)),
    Mutant(2, "1 becomes 100", "evaluation/measurements.py", "evidence_of_each(model, x, context, samples)",
           "evidence_of_each(model, x, context, 100 if samples == 1 else samples)",
           (f"{INVARIANCE}::test_exactly_as_many_draws_are_made_as_are_asked_for",)),
    Mutant(2, "an objective gets one draw", "training/passes.py", "objective.samples, objective.path_gradient",
           "1, objective.path_gradient", (f"{INVARIANCE}::test_an_objective_is_given_the_draws_it_asks_for",)),
    Mutant(3, "half of log 2 pi is missing in training", "roles.py", "return px.log_prob(x)",
           "return px.log_prob(x) + 0.9189385 * px.event_shape.numel() * self.training",
           (f"{INVARIANCE}::test_training_and_evaluation_are_on_one_scale",
            f"{LIKELIHOODS}::test_training_and_evaluation_mean_the_same_distribution")),
    Mutant(3, "distortion counted twice", "objectives/elbo.py", "loss = draw.distortion +", "loss = 2 * draw.distortion +",
           (f"{INVARIANCE}::test_the_epochs_means_are_those_of_all_examples_whatever_the_batch",
            f"{TRAIN}::test_the_history_is_that_of_the_elbo")),
    Mutant(4, "the normalising constant is dropped", "likelihoods/continuous_bernoulli.py",
           "torch.distributions.ContinuousBernoulli(", "torch.distributions.Bernoulli(",
           (f"{LIKELIHOODS}::test_probabilities_sum_to_one",)),
    Mutant(4, "one entry's constant is dropped", "roles.py", "return px.log_prob(x)", "return px.log_prob(x) + 0.9189385",
           (f"{LIKELIHOODS}::test_probabilities_sum_to_one",)),
    Mutant(5, "KL without -1", "distributions/kl.py", "return kl_divergence(q, p)", "return kl_divergence(q, p) + 0.5",
           (f"{KL}::test_of_a_distribution_to_itself_is_zero_in_16_dimensions",
            f"{KL}::test_normals_of_every_form_agree_with_monte_carlo")),
    Mutant(5, "KL to the standard normal without -1", "distributions/entrywise_normal.py", "q.scale.square() - 1)",
           "q.scale.square())", (f"{KL}::test_every_posterior_to_every_prior_agrees_with_monte_carlo",)),
    Mutant(5, "KL clamped to zero", "distributions/kl.py", "return kl_divergence(q, p)", "return kl_divergence(q, p).clamp(0, 0)",
           (f"{KL}::test_normals_of_every_form_agree_with_monte_carlo",
            f"{KL}::test_every_posterior_to_every_prior_agrees_with_monte_carlo")),
    Mutant(6, "draws and examples swapped", "shapes.py", "result = result.reshape(*leading, *out_shape)",
           "result = (result.reshape(*leading[::-1], *out_shape).transpose(0, 1) if len(leading) "
           "== 2 else result.reshape(*leading, *out_shape))",
           (f"{LIKELIHOODS}::test_treats_draws_and_examples_separately",)),
    Mutant(6, "examples swapped", "shapes.py", "result = network(flat)", "result = network(flat).roll(1, 0)",
           (f"{POSTERIORS}::test_treats_examples_separately", f"{LIKELIHOODS}::test_treats_draws_and_examples_separately")),
    Mutant(6, "one draw stands for all", "draw.py", "(self.m * values).sum(0)", "values[0]",
           ("tests/objectives::test_the_order_of_examples_and_draws_changes_nothing",)),
    Mutant(6, "the worst draw counts most", "evaluation/evidence.py", "estimate = torch.logsumexp(self.log_terms.to(self.dtype), 0)",
           "estimate = -torch.logsumexp(-self.log_terms.to(self.dtype), 0)",
           (f"{EXACT}::test_with_an_inflated_posterior_the_bounds_are_ordered_and_close_at_rate_one_over_k",)),
    Mutant(6, "weights of imputation over examples", "evaluation/imputed.py",
           "weights = torch.softmax(log_w, 0)", "weights = torch.softmax(log_w, 1)",
           ("tests/test_missing.py::test_imputations_are_those_of_the_conditional_distribution",)),
    Mutant(6, "weights of training are a softmax of the loss", "draw.py",
           "return torch.logsumexp(self.log_w + self.log_m, 0)", "return -torch.logsumexp(-self.log_w + self.log_m, 0)",
           (f"{IWAE}::test_the_weights_are_those_of_the_definition",
            f"{BOUNDS}::test_the_importance_weighted_bound_rises_with_the_draws",
            f"{BOUNDS}::test_the_bounds_are_ordered_from_the_elbo_to_the_evidence")),
    Mutant(6, "weights of a gradient are a softmax of the loss", "objectives/dreg.py",
           "(draw.log_w + draw.log_m).detach()", "(draw.log_m - draw.log_w).detach()",
           (f"{BOUNDS}::test_a_path_gradient_is_the_ordinary_one_in_expectation",
            f"{DREG}::test_the_gradient_at_each_draw_is_weighed_by_the_square_of_its_weight")),
    Mutant(6, "weights over the examples", "objectives/dreg.py", ".detach().softmax(0)", ".detach().softmax(1)",
           (f"{DREG}::test_the_gradient_at_each_draw_is_weighed_by_the_square_of_its_weight",)),
    Mutant(6, "the average of a power of the weights is over their inverse", "objectives/renyi.py",
           "power, mean = 1 - self.alpha,", "power, mean = self.alpha - 1,",
           (f"{BOUNDS}::test_the_bounds_are_ordered_from_the_elbo_to_the_evidence",)),
    Mutant(7, "non-finite examples are dropped", "evaluation/estimate.py", "values = values.detach().cpu().double()",
           "values = values.detach().cpu().double(); values = values[values.isfinite()]",
           ("tests/evaluation/test_evaluate.py::test_a_value_that_is_not_finite_is_not_dropped_from_the_mean",)),
    Mutant(7, "weights that are not finite pass unseen", "checks.py", "    if examples:", "    if examples and False:",
           (f"{INVARIANCE}::test_an_example_that_cannot_be_scored_is_never_left_out",)),
    Mutant(7, "non-finite examples count as zero", "training/sums.py", "name: value.detach() for",
           "name: value.detach().nan_to_num(0, 0, 0) for",
           (f"{INVARIANCE}::test_an_example_that_cannot_be_scored_is_never_left_out",)),
    Mutant(7, "evaluation drops the last partial batch", "evaluation/evaluate.py",
           "if number % world.size == world.rank:", "if len(x) == batch_size:",
           (f"{INVARIANCE}::test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_and_the_order",)),
    Mutant(7, "training drops the last partial batch", "training/steps.py",
           "math.ceil(examples / settings.batch_size)", "max(1, examples // settings.batch_size)",
           (f"{INVARIANCE}::test_every_example_is_seen_once_an_epoch",
            f"{INVARIANCE}::test_the_epochs_means_are_those_of_all_examples_whatever_the_batch")),
    Mutant(7, "validation counts its first batch only", "training/validation.py", "for x in batches:", "for x in [next(iter(batches))]:",
           (f"{INVARIANCE}::test_the_epochs_means_are_those_of_all_examples_whatever_the_batch",)),
    Mutant(7, "a step that is not finite is taken", "training/steps.py", "optimizer.found_inf = skipped",
           "optimizer.found_inf = 0 * skipped",
           (f"{TRAIN}::test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted",)),
    Mutant(8, "a mixture sampled from one component", "distributions/mixture.py",
           "draws.append(every[torch.arange(len(part), device=part.device), part])", "draws.append(every[:, 0])",
           ("tests/distributions::test_draws_are_those_of_the_density_that_is_divided_by",
            "tests/priors::test_moments_are_those_of_samples")),
    Mutant(9, "the loss is called elbo", "draw.py", '{"elbo": -distortion - rate,', '{"elbo": distortion + rate,',
           (f"{EXACT}::test_the_objective_is_a_bound_on_the_exact_evidence",
            f"{EXACT}::test_the_logged_elbo_rises_to_the_evidence_as_the_posterior_improves",
            "tests/objectives::test_logs_the_unweighted_elbo")),
    Mutant(10, "weights of the diagonal in the first column", "objectives/beta_tc.py",
           "return weights.fill_diagonal_(1 / examples).log()", "weights[:, 0] = 1 / examples\n    return weights.log()",
           (f"{BETA_TC}::test_over_all_batches_the_estimate_of_the_aggregate_is_unbiased",
            f"{BETA_TC}::test_it_is_the_average_of_the_papers_weights_over_which_of_the_others_is_the_last")),
    Mutant(10, "weights added once a dimension", "objectives/beta_tc.py", "table.sum(-1) + log_weights",
           "(table + log_weights[..., None]).sum(-1)",
           (f"{BETA_TC}::test_over_all_batches_the_estimate_of_the_aggregate_is_unbiased",
            f"{BETA_TC}::test_with_all_examples_in_the_batch_the_decomposition_is_exact")),
    Mutant(12, "a statistic of the batch times its size", "objective.py", "else mean + self.batch_loss",
           "else mean + len(self.loss) * self.batch_loss",
           ("tests/objectives::test_a_statistic_of_the_batch_does_not_grow_with_it",)),
    Mutant(12, "a sum over the batch", "objective.py", "mean = batch_mean(self.loss)", "mean = self.loss.sum()",
           ("tests/objectives::test_the_loss_does_not_grow_with_the_batch",
            "tests/objectives::test_a_batch_is_the_mean_of_its_parts")),
    Mutant(13, "a mean over the pixels", "roles.py", "return px.log_prob(x)",
           "return px.log_prob(x) / px.event_shape.numel()", (f"{LIKELIHOODS}::test_probabilities_sum_to_one",)),
    Mutant(13, "another weight in validation", "objectives/elbo.py",
           "if is_weighted else rate)", "if is_weighted else rate * (2.5e-4 if self.training else 1))",
           (f"{TRAIN}::test_the_history_is_that_of_the_elbo",)),
    Mutant(11, "factors by dimensions, reshaped instead of transposed", "evaluation/mig.py",
           "lambda rows: float(gaps(table(rows)).mean())",
           "lambda rows: float(gaps(table(rows).T.reshape(v.shape[1], -1)).mean())",
           ("tests/evaluation/test_factor_scores.py::test_the_gap_of_a_table_that_is_not_square",)),
    Mutant(12, "the commitment is summed over the batch", "posteriors/vector_quantised.py",
           '"commitment": self.commitment * distance', '"commitment": self.commitment * distance.sum().expand_as(distance)',
           ("tests/posteriors/test_vector_quantised.py::test_the_commitment_does_not_grow_with_the_batch",)),
    Mutant(14, "a warm-up longer than the run", "objectives/elbo.py", "min(1.0, progress / self.warmup)",
           "min(1.0, progress / (10 * self.warmup))",
           (f"{ELBO}::test_the_warm_up_rises_in_a_straight_line_and_ends_before_the_run",)),
    Mutant(14, "a warm-up of two runs is let through", "objectives/elbo.py", "if not 0 <= warmup <= 1:", "if warmup < 0:",
           (f"{ELBO}::test_refuses_what_makes_no_sense",)),
    Mutant(14, "a schedule on another run's length", "training/steps.py", "state.step / last",
           "state.step / (100 * self.per_epoch)", (f"{TRAIN}::test_progress_runs_from_zero_to_one",)),
    Mutant(15, "the log-variance is divided by the variance", "distributions/full_normal.py",
           "log_p: Tensor = self.flat.log_prob(value.reshape(*leading, -1))",
           "log_p: Tensor = self.flat.log_prob(value.reshape(*leading, -1)) + 0.5 * "
           "(self.flat.variance.log() * (1 - 1 / self.flat.variance)).sum(-1)",
           ("tests/priors::test_is_normalised", f"{POSTERIORS}::test_is_normalised")),
    Mutant(15, "the log-variance of a pseudo-input is divided by the variance", "distributions/mixture.py",
           "loc**2 / variance + variance.log() + math", "(loc**2 + variance.log()) / variance + math",
           ("tests/priors::test_is_normalised", "tests/priors::test_the_density_is_the_posteriors_average",
            "tests/priors::test_with_all_pseudo_inputs_equal_it_is_the_posterior_there")),
    Mutant(15, "the log-variance is divided by the variance", "roles.py", "return px.log_prob(x)",
           "return px.log_prob(x) + 0.5 * (px.variance.log() * (1 - 1 / px.variance)).sum()",
           (f"{LIKELIHOODS}::test_probabilities_sum_to_one",)),
    Mutant(16, "a parameter is not trained", "training/steps.py",
           "check_gradients(self.plain.model, self.plain.objective, received)", "pass",
           (f"{TRAIN}::test_a_parameter_without_a_gradient_is_named",)),
    Mutant(17, "grey values scored as Bernoulli", "likelihoods/bernoulli.py", "import BINARY", "import UNIT as BINARY",
           (f"{TRAIN}::test_data_outside_the_support_are_refused_with_the_remedies",)),
    Mutant(17, "cross-entropy called a density", "likelihoods/binary_cross_entropy.py", "is_density: ClassVar[bool] = False",
           "is_density: ClassVar[bool] = True",
           (f"{LIKELIHOODS}::test_probabilities_sum_to_one",
            "tests/evaluation/test_evaluate.py::test_cross_entropy_is_never_called_a_likelihood")),
    Mutant(18, "a sigmoid output", "likelihoods/normal.py", "self.standardizer.unstandardize(loc)", "self.standardizer.unstandardize(loc.sigmoid())",
           (f"{LIKELIHOODS}::test_the_mean_is_not_squashed", "tests/test_units.py::test_columns_of_any_scale_are_learned")),
    Mutant(18, "inputs are not checked", "checks.py", "if contains(likelihood.support, support):", "if True:",
           (f"{TRAIN}::test_data_outside_the_support_are_refused_with_the_remedies",)),
    Mutant(19, "sizes that are no powers of two", "networks/_strided.py", "(-(-height // 2), -(-width // 2))",
           "(height // 2, width // 2)",
           ("tests/networks/test_conv.py::test_any_picture_to_any_vector_and_back",)),
    Mutant(19, "networks for 28 x 28", "networks/mlp.py", "(numel(in_shape), *hidden,", "(784, *hidden,",
           ("tests/networks::test_maps_in_shape_to_out_shape",)),
    Mutant(20, "the mask is ignored", "roles.py", "if mask is None:", "if True:",
           (f"{LIKELIHOODS}::test_a_masked_value_changes_nothing",)),
    Mutant(20, "a missing value is filled with zero", "roles.py",
           "entries = torch.where(observed, px.base_dist.log_prob(filled), 0.0)", "entries = px.base_dist.log_prob(filled)",
           (f"{LIKELIHOODS}::test_a_missing_value_is_marginalised_and_not_filled_in",)),
    Mutant(20, "NaN gets into gradients", "roles.py", "filled = torch.where(observed, x, torch.zeros_like(x))", "filled = x",
           (f"{LIKELIHOODS}::test_a_missing_value_is_marginalised_and_not_filled_in",)),
    Mutant(20, "NaN in the data is let through", "data/values.py", "if bad.any():", "if False:",
           ("tests/data/test_arrays.py::test_refused_in_one_line",)),
    Mutant(20, "the mask of the card is lost", "data/dataset.py", "mask=part.mask)", "mask=None)",
           ("tests/test_missing.py::test_bits_are_those_of_the_observed_entries",)),
    Mutant(20, "missing values stay on the card", "data/missing.py", "x=np.where(mask, x, np.zeros((), x.dtype))", "x=x",
           ("tests/test_missing.py::test_what_stands_at_a_missing_entry_changes_nothing",)),
    Mutant(20, "missing values reach the encoder", "model.py", "value = context.observed(placed)",
           "value = placed",
           ("tests/test_missing.py::test_the_evidence_is_that_of_the_observed_entries",)),
    Mutant(20, "missing values count in the units", "units.py",
           "seen = None if mask is None else entries_of(mask, columns, shape)", "seen = None",
           ("tests/test_missing.py::test_training_takes_units_and_starting_points_from_what_is_observed",)),
    Mutant(20, "the encoder sees what stands at a missing entry", "units.py",
           "if mask is None:\n            return value\n", "if mask is not None:\n            return value\n",
           ("tests/posteriors::test_a_masked_value_changes_nothing",)),
    Mutant(21, "encode is a sample", "models/vae.py", "else mean(qz)",
           "else qz.sample()",
           (f"{VAE}::test_encode_is_the_mean_and_deterministic",)),
    Mutant(21, "encode returns other rows", "models/vae.py", "else mean(qz)",
           "else mean(qz).flip(0)",
           (f"{VAE}::test_encode_is_the_mean_and_deterministic",
            "tests/cli/test_use.py::test_encode_keeps_the_order_and_scale_of_a_file")),
    Mutant(21, "reconstructions of a random code", "model.py", "return self.decode(self.encode(x, context), context)",
           "return self.decode(self(x, context).latents[0].z[0], context)",
           (f"{VAE}::test_reconstruct_is_decode_of_encode",)),
    Mutant(22, "the encoder is not kept", "runs/run.py", "write_tensors(self.model_file, state,",
           'write_tensors(self.model_file, {k: v for k, v in state.items() if not k.startswith("posterior")},',
           (f"{RUN}::test_weights_in_their_file_are_those_of_the_model",
            "tests/cli/test_use.py::test_what_a_trained_model_is_for")),
    Mutant(23, "softplus in training, exp in evaluation", "posteriors/diagonal_normal.py", "(0.5 * log_variance).exp()",
           "(log_variance.exp().log1p() if self.training else (0.5 * log_variance).exp())",
           (f"{POSTERIORS}::test_training_and_evaluation_mean_the_same_distribution",)),
    Mutant(23, "softplus in training, exp in evaluation", "likelihoods/normal.py", "log_scale.exp(), validate_args",
           "(log_scale.exp().log1p() if self.training else log_scale.exp()), validate_args",
           (f"{LIKELIHOODS}::test_training_and_evaluation_mean_the_same_distribution",)),
    Mutant(23, "the scale is that of the evaluated x", "likelihoods/optimal_normal.py", "if not self.training:", "if False:",
           (f"{LIKELIHOODS}::test_outside_training_the_scale_is_the_running_mean_and_blind_to_x",)),
    Mutant(24, "weights are unpickled", "runs/tensors.py", "tensors = dict(load_tensors(content))",
           "import pickle\n\n        tensors = pickle.loads(content)",
           (f"{RUN}::test_a_pickle_in_place_of_tensors_is_refused_and_does_not_run",
            "tests/test_layers.py::test_loading_never_unpickles")),
    Mutant(0, "a flipped bit in the weights is not seen", "runs/tensors.py", "if said != sha256:", "if False:",
           ("tests/runs/test_damaged.py::test_one_flipped_bit_in_the_weights_is_seen",)),
    Mutant(0, "training examples are tested on", "data/held_out.py", "if card.get(SPLIT) not in (None, split_digest(data)):", "if False:",
           ("tests/runs/test_damaged.py::test_training_examples_do_not_come_into_the_test_split",)),
    Mutant(0, "a checkpoint is written over the one before", "runs/run.py", "if name == self._committed():", "if False:",
           ("tests/runs/test_damaged.py::test_a_second_state_after_the_same_step_leaves_the_first_until_it_is_committed",)),
    Mutant(24, "a configuration names code", "config/parts.py", "if root not in trust:", "if False:",
           (f"{RUN}::test_a_configuration_that_names_code_is_refused",
            "tests/config/test_parts.py::test_nothing_is_imported_before_it_is_trusted")),
    Mutant(25, "resuming loses the optimiser", "training/checkpoint.py", '{"state": by_parameter,', '{"state": {},',
           (f"{TRAIN}::test_resuming_at_any_step_ends_with_the_same_weights_and_metrics",
            f"{TRAIN}::test_killed_at_any_moment_and_resumed_it_ends_as_if_it_had_not_been")),
    Mutant(25, "the best weights with the latest optimiser", "training/checkpoint.py", '"model": self.model.state_dict(),',
           '"model": self.best.weights or self.model.state_dict(),',
           (f"{TRAIN}::test_resuming_at_any_step_ends_with_the_same_weights_and_metrics",)),
    Mutant(26, "mixed precision is switched off", "parallel/fabric.py",
           'settings["plugins"] = InputsAsTheyAre(precision, place.type)', 'settings["precision"] = "32-true"',
           (f"{TRAIN}::test_mixed_precision_is_in_force_whatever_the_objective",)),
    Mutant(26, "log-densities in half precision", "shapes.py",
           "return result.to(value.dtype)", "return result",
           (f"{TRAIN}::test_under_mixed_precision_the_data_and_their_densities_stay_in_float32",)),
    Mutant(0, "a share of a batch weighs as much as a larger one", "parallel/shards.py",
           "self.processes * (self.stop - self.start) / self.size", "self.processes / self.processes",
           ("tests/parallel/test_shards.py::test_every_row_counts_once",
            "tests/parallel/test_processes.py::test_two_processes_do_what_one_does")),
    Mutant(0, "all shares draw the noise of the first rows", "parallel/noise.py",
           "parts.narrow(place.dim + 1, self.shard.start, self.count)", "parts.narrow(place.dim + 1, 0, self.count)",
           ("tests/parallel/test_shards.py::test_pieces_draw_what_the_whole_draws",
            "tests/parallel/test_processes.py::test_two_processes_do_what_one_does")),
    Mutant(0, "a statistic of the batch has no gradient in other processes", "parallel/shards.py",
           "torch.distributed.all_reduce(whole)\n        if stop == start:", "if stop == start:",
           ("tests/parallel/test_processes.py::test_two_processes_do_what_one_does",)),
    Mutant(0, "a window of a file is not shuffled", "data/mapped.py", "generator.shuffle(order[start : start + window])", "pass",
           ("tests/data/test_mapped.py::test_a_window_holds_whole_blocks_from_all_over_the_file",)),
    Mutant(0, "windows are of neighbouring blocks", "data/mapped.py", "blocks = generator.permutation(-(-n // block))",
           "blocks = np.arange(-(-n // block))",
           ("tests/data/test_mapped.py::test_a_window_holds_whole_blocks_from_all_over_the_file",)),
    Mutant(0, "the order of a file cannot be resumed", "data/mapped.py", "generator = np.random.default_rng(seed)",
           "generator = np.random.default_rng()",
           ("tests/data/test_mapped.py::test_interrupted_in_a_window_and_resumed_it_ends_with_the_same_weights",
            "tests/data/test_mapped.py::test_where_the_window_holds_all_the_order_is_that_of_data_in_memory")),
    Mutant(0, "the second random transform draws what the first drew", "data/dataset.py", "if transform is not random[-1]:",
           "if False:",
           ("tests/data/test_mapped.py::test_two_random_transforms_draw_the_same_however_the_examples_are_cut",)),
    Mutant(0, "units come from an excerpt", "training/passes.py", "x if are_all else summary(data.batches(\"train\"))", "x",
           ("tests/data/test_mapped.py::test_units_come_from_all_examples_and_starting_points_from_some",)),
    Mutant(0, "pictures that have changed are read from the cache", "data/folders.py",
           "{about.st_size} {about.st_mtime_ns}", "",
           ("tests/data/test_folders.py::test_a_folder_that_has_changed_is_decoded_anew",)),
    Mutant(0, "the model's loss moves the critic", "objectives/factor_vae.py",
           "fixed = {name: p.detach() for", "fixed = {name: p for",
           ("tests/objectives::test_neither_loss_reaches_the_others_parameters",)),
    Mutant(0, "the critic's loss moves the codes", "objectives/factor_vae.py", "self.critic_loss(z.detach())",
           "self.critic_loss(z)", ("tests/objectives::test_neither_loss_reaches_the_others_parameters",)),
    Mutant(0, "a graph loses moments of single numbers", "training/compiled.py", "value.view(1) if p.ndim == 0",
           "value if p.ndim == 0",
           (f"{COMPILED}::test_in_double_precision_a_graph_moves_single_numbers_too",)),
    Mutant(0, "a compiler takes what is not finite for finite", "training/passes.py", "(~total.isfinite())", "(total * 0).ne(0)",
           (f"{COMPILED}::test_in_a_graph_too_a_step_whose_gradient_is_not_finite_is_left_out",)),
    Mutant(0, "a graph goes past hooks", "training/steps.py",
           "and not settings.is_scaled and fits_one_graph(plain, self.optimizer)", "and not settings.is_scaled",
           (f"{COMPILED}::test_where_a_gradient_is_waited_for_the_pass_alone_is_a_graph_with_the_same_numbers",)),
    Mutant(0, "model and critic are clipped by one norm", "training/steps.py", "for group in self.groups:",
           "for group in [self.parameters]:",
           (f"{FACTOR_VAE}::test_clipping_one_does_not_clip_the_other",)),
    Mutant(0, "the critic is not resumed", "training/checkpoint.py", '(self.model, "model"), (self.objective, "objective")',
           '(self.model, "model")',
           (f"{FACTOR_VAE}::test_interrupted_and_resumed_it_ends_with_the_same_critic_bit_for_bit",)),
    Mutant(0, "pairs of an example with itself", "objectives/mmd.py", "other = 1 - torch.eye(", "other = 1 - 0 * torch.eye(",
           ("tests/objectives/test_mmd.py::test_between_normals_it_is_unbiased_for_the_closed_form",)),
    Mutant(0, "a gradient is cut off", "draw.py", "return -self.average(self.log_px)",
           "return -self.average(self.log_px.detach() + 0.5 * (self.log_px - "
           "self.log_px.detach()))",
           ("tests/objectives::test_gradients_of_the_loss_are_those_of_finite_differences",
            f"{LIKELIHOODS}::test_gradients_of_the_loss_are_those_of_finite_differences")),
    Mutant(0, "pseudo-inputs move batch statistics", "priors/vamp.py", "with evaluating(posterior):", "if True:",
           ("tests/priors::test_in_training_it_is_the_density_of_evaluation_and_moves_no_statistics",)),
    Mutant(0, "refining q moves the prior", "evaluation/refined.py", "if not is_asked:",
           "if offset is not None and output.shape != offset.shape:",
           ("tests/priors::test_refining_q_of_some_examples_leaves_the_prior_alone",)),
    Mutant(0, "pseudo-inputs are started again", "priors/vamp.py", "if self.is_prepared:", "if False:",
           ("tests/priors::test_a_model_that_was_trained_is_not_started_again",)),
    Mutant(0, "log q without its own parameters", "models/vae.py", "scored=scored)",
           "scored=again(self.posterior, x, context, random_state()))",
           (f"{POSTERIORS}::test_gradients_of_the_loss_are_those_of_finite_differences",)),
    Mutant(0, "all codes weigh the same", "models/vae.py", "if drawn.is_enumerated else equal", "if False else equal",
           ("tests/test_codes.py::test_enumerated_value_and_gradient_are_the_sum_over_all_codes",)),
    Mutant(0, "a relaxed draw is called a bound", "codes.py", "rsample(shape), is_relaxed=True)", "rsample(shape))",
           ("tests/test_codes.py::test_at_a_low_temperature_gumbel_softmax_is_the_discrete_model_in_value_and_gradient",)),
    Mutant(0, "q unlearns awake", "objectives/reweighted_wake_sleep.py", '"wake": -(weights', '"wake": (weights',
           ("tests/objectives/test_reweighted_wake_sleep.py::test_over_all_codes_both_wake_gradients_are_exact",)),
    Mutant(0, "codes are relaxed in evaluation", "models/vae.py", "self.training and reparameterised", "reparameterised",
           ("tests/test_codes.py::test_in_evaluation_there_is_the_discrete_model_however_it_was_trained",)),
]  # fmt: skip


def test_every_guard_that_the_page_names_has_its_fault_put_in() -> None:
    text = (
        (ROOT / "docs" / "correctness.md")
        .read_text()
        .partition("\n## What is refused, and how\n")[0]
    )
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        number = int(section.partition(".")[0])
        named = {
            name.split("::")[-1] for name in re.findall(r"`tests/[\w/]+\.py::([\w:]+)`", section)
        }
        tried = {guard.split("::")[-1] for m in MUTANTS if m.number == number for guard in m.guards}
        assert named == tried, (
            f"fault {number}: on the page and not tried {named - tried}, or tried only "
            f"{tried - named}"
        )


def test_every_fault_still_has_the_place_where_it_is_put_in() -> None:
    moved = [
        m for m in MUTANTS if (ROOT / "src" / "lowerbound" / m.file).read_text().count(m.old) != 1
    ]
    assert not moved, "the code has changed: put these faults in where they would be now"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.number}-{m.what}".replace(" ", "-"))
def test_the_guard_notices(mutant: Mutant, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "src" / "lowerbound" / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, "the place has changed: put the fault in where it is now"
    file.write_text(text.replace(mutant.old, mutant.new))
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for guard in mutant.guards:
        place, _, name = guard.rpartition("::")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            place,
            "-k",
            name,
        ]
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 1, (
            f"{guard} did not fail:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
        )
        # a test that failed, and not a file that could no longer be imported
        assert re.search(rf"^FAILED \S*::{name}", run.stdout, re.MULTILINE), run.stdout[-2000:]
