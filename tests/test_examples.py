"""Tests of the examples.

Some examples train the same model with this package and with another library, and the
losses of both are equal at each step. The examples adding, recurrent_ppo, seq2seq,
streaming, tagging and xlstm learn. voice_activity has the results of the package
silero-vad, and the blocks of xlstm those of the package xlstm. If an example runs its
model both on a whole sequence and step by step, the results are equal up to rounding.
The example inside_runs is tested in tests/lab/tasks/test_inspecting.py.
"""

import re
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import GRU, convert, make_stepper

EXAMPLES = Path(__file__).parents[1] / "examples"
COMPARISONS = {
    "nnx_loop": "flax",
    "linen_layer": "flax",
    "equinox_layer": "equinox",
    "haiku_layer": "haiku",
}


@contextmanager
def imported(*names: str) -> Iterator[list[ModuleType]]:
    """Import examples, yield their modules, and remove them from `sys.modules` at the
    end.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        try:
            yield [import_module(name) for name in names]
        finally:
            for name in names:
                sys.modules.pop(name, None)


@pytest.mark.slow
def test_adding():
    with imported("adding") as (example,):
        x, y = example.make_batches(jax.random.key(0), 20)
        np.testing.assert_allclose(y, (x[..., 0] * x[..., 1]).sum(2), rtol=1e-6)
        assert (x[:, :, :10, 1].sum(2) == 1).all()
        assert (x[:, :, 10:, 1].sum(2) == 1).all()
        assert example.run(example.Config("gru", 10))["error"] < 0.02


def right_answer(name, seen):
    """Return the right answer in a card game of memory_tasks after the observations
    `seen`, or 0 if none is asked.
    """
    symbols, flags = (
        [row[:4].argmax() for row in seen],
        [row[4:].argmax() for row in seen if len(row) > 4],
    )
    if name == "CountRecall":
        return symbols.count(flags[-1])
    if name == "Autoencode":
        return symbols[-2 * sum(flags)] if flags[-1] else 0
    return symbols[0] if name == "RepeatFirst" else symbols[max(len(seen) - 5, 0)]


@pytest.mark.parametrize(
    "name", ["RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall"]
)
def test_the_right_answers_of_a_card_game_return_1(name):
    with imported("memory_tasks") as (example,):
        task = example.make_task(name, 10)
    reset, step = jax.jit(task.reset), jax.jit(task.step)
    for wrong, expected in ((0, 1), (1, -1)):
        observation, state = reset(jax.random.key(wrong))
        for episode in range(2):
            seen, total = [observation], 0.0
            for t in range(10):
                action = (right_answer(name, seen) + wrong) % task.num_actions
                observation, state, reward, done, *_ = step(
                    jax.random.key(100 * episode + t), state, action
                )
                seen.append(observation)
                total += float(reward)
                assert bool(done) == (t == 9)
            assert total == pytest.approx(expected)


def test_cart_and_pole_follow_the_equations_of_motion():
    with imported("memory_tasks") as (example,):
        task = example.NoisyCartPole(200)
    _, speed, angle, turn = before = jnp.array([0.1, -0.3, 0.15, 0.4])
    (after, _), reward, done = task.advance((before, jnp.zeros((), int)), 0)
    _, force, _, faster = (after - before) / 0.02
    np.testing.assert_allclose(
        (after - before)[jnp.array([0, 2])], 0.02 * jnp.array([speed, turn]), rtol=1e-4
    )
    swing = 0.1 * 0.5 * (faster * jnp.cos(angle) - turn**2 * jnp.sin(angle))
    # masses of 1 and 0.1, half a pole of 0.5 m
    assert float(1.1 * force + swing) == pytest.approx(-10, rel=1e-3)
    assert float(4 / 3 * 0.5 * faster + force * jnp.cos(angle)) == pytest.approx(
        9.8 * np.sin(0.15), rel=1e-2
    )
    assert (float(reward), bool(done)) == (pytest.approx(1 / 200), False)


@pytest.fixture(scope="module")
def ppo() -> Iterator[ModuleType]:
    with imported("recurrent_ppo", "memory_tasks") as (found, _):
        yield found


@pytest.mark.parametrize("name", COMPARISONS)
def test_losses_are_equal(name, peer_rules):
    pytest.importorskip(
        COMPARISONS[name], reason=f"{COMPARISONS[name]} is not installed"
    )
    with imported("common", name) as (common, example), peer_rules():
        found = example.run(common.Sizes(50, 6, 5, 7, 4), 12)
    np.testing.assert_allclose(found.ours, found.theirs, rtol=1e-5)
    assert found.ours[-1] != found.ours[0]
    assert min(found.milliseconds) > 0


@pytest.fixture(scope="module")
def settings(ppo):
    return ppo.Settings(
        "RepeatFirst",
        5,
        units=16,
        environments=16,
        steps=12,
        updates=60,
        minibatches=2,
        learning_rate=5e-3,
    )


@pytest.fixture(scope="module")
def rolled(ppo, settings, peer_rules):
    """Return (policy, batch, values of the last observations) of a rollout that begins
    in the middle of episodes.
    """
    simulation = ppo.make_simulation(settings)

    @jax.jit
    def roll(key):
        policy = ppo.make_policy(settings, simulation, key)
        actors = ppo.begin(settings, simulation, policy, key)
        memory = jax.tree.map(
            lambda part: jax.random.uniform(key, part.shape), actors.memory
        )
        actors = actors._replace(memory=memory, reset=~actors.reset)
        _, rollout, last = ppo.roll_out(simulation, policy, actors, key, settings.steps)
        advantage = ppo.advantages(rollout, last, 0.9, 0.8)
        return (
            nnx.split(policy)[1],
            ppo.Batch(rollout, memory, advantage, advantage + rollout.value),
            last,
        )

    with peer_rules():
        params, batch, last = roll(jax.random.key(1))
        graph = nnx.graphdef(
            nnx.eval_shape(
                lambda: ppo.make_policy(settings, simulation, jax.random.key(0))
            )
        )
    return nnx.merge(graph, params), batch, last


@pytest.mark.slow
def test_ppo_the_whole_rollout_gives_what_its_steps_gave(ppo, rolled):
    policy, batch, _ = rolled
    logits, values = nnx.jit(ppo.Policy.__call__)(
        policy, batch.rollout.observation, batch.memory, batch.rollout.reset
    )
    assert 0 < batch.rollout.reset[:, 0].sum() < len(logits)
    np.testing.assert_allclose(
        ppo._log_prob(logits, batch.rollout.action), batch.rollout.log_prob, atol=1e-5
    )
    np.testing.assert_allclose(values, batch.rollout.value, atol=1e-5)


@pytest.mark.slow
def test_ppo_no_gradient_crosses_the_border_of_episodes(ppo, settings, rolled):
    policy, batch, _ = rolled
    border = int(np.flatnonzero(batch.rollout.reset[:, 0])[0])

    @jax.jit
    def gradients(observation, memory):
        def later(observation, memory):
            changed = batch._replace(
                rollout=batch.rollout._replace(observation=observation), memory=memory
            )
            losses = ppo.step_losses(policy, changed, settings)[:, 0]
            return losses[border:].sum(), losses[:border].sum()

        return jax.jacrev(later, argnums=(0, 1))(observation, memory)

    (after, after_state), (before, before_state) = gradients(
        batch.rollout.observation, batch.memory
    )
    assert border > 1
    assert not np.any(after[:border])
    assert not np.any(after_state.h)
    assert not np.any(after_state.c)
    assert not np.any(before[border:])
    assert np.all(np.abs(after[border:, 0]).sum(1) > 0)
    assert np.all(np.abs(before[:border, 0]).sum(1) > 0)
    assert np.any(before_state.c[0])


@pytest.mark.slow
def test_ppo_advantages_are_those_of_a_plain_loop(ppo, rolled):
    _, batch, last = rolled
    rollout = jax.tree.map(lambda array: np.asarray(array)[:, 3], batch.rollout)
    values, advantage, expected = [*rollout.value, float(last[3])], 0.0, []
    for t in reversed(range(len(rollout.reward))):
        goes_on = 0.0 if rollout.done[t] else 0.9
        advantage = (
            rollout.reward[t]
            + goes_on * values[t + 1]
            - values[t]
            + goes_on * 0.8 * advantage
        )
        expected.append(advantage)
    assert rollout.done.any()
    np.testing.assert_allclose(batch.advantage[:, 3], expected[::-1], atol=1e-5)


@pytest.mark.slow
def test_ppo_learns_in_one_program(ppo, settings, peer_rules):
    with peer_rules():
        simulation = ppo.make_simulation(settings)
        found = ppo.run(settings, simulation)
        shapes = jax.eval_shape(
            ppo.make_train(replace(settings, cell="memoryless"), simulation),
            jax.random.key(0),
        )
    assert np.isfinite(found.returns).all()
    assert found.returns.shape == (1, settings.updates)
    assert found.returns[0, :5].mean() < 0
    assert found.returns[0, -10:].mean() > 0.8
    assert not [
        path for path, _ in nnx.to_flat_state(shapes[0]) if "recurrent_kernel" in path
    ]


@pytest.mark.slow
def test_seq2seq_learns_and_writes_by_steps_what_it_predicts(peer_rules):
    # optax' schedules are not written for strict promotion
    with imported("seq2seq") as (seq2seq,), peer_rules():
        found = seq2seq.run(
            units=16, digits=2, count=1_000, epochs=3, batch=30, learning_rate=1e-2
        )
        losses = [row["train_loss"] for row in found.rows]
        assert losses[-1] < 0.8 * losses[0]
        ids, lengths, answers = map(jnp.asarray, found.held_out)
        problems = seq2seq.decode(ids)
        assert not set(problems) & set(
            seq2seq.decode(seq2seq.make_problems(1_000, 2).ids[:900])
        )
        assert [len(problem) for problem in problems] == lengths.tolist()
        sums = [str(sum(map(int, problem.split("+")))) for problem in problems]
        assert seq2seq.decode(answers) == sums
        written = seq2seq.solve(found.model, ids, lengths, answers.shape[1])
        right = [
            text == total
            for text, total in zip(seq2seq.decode(written), sums, strict=True)
        ]
        assert found.rows[-1]["held_out_accuracy"] == pytest.approx(np.mean(right))

        likeliest = nnx.jit(seq2seq.Adder.__call__)(
            found.model, ids, lengths, written
        ).argmax(-1)
        np.testing.assert_array_equal(likeliest, written)
        logits = jax.random.normal(
            jax.random.key(0), (*written.shape, len(seq2seq.SYMBOLS))
        )
        longer = np.pad(answers, ((0, 0), (0, 2)), constant_values=seq2seq.END)
        losses = seq2seq.losses(lambda *_: logits, ids, lengths, answers)
        padded = seq2seq.losses(
            lambda *_: jnp.pad(logits, ((0, 0), (0, 2), (0, 0))),
            ids,
            lengths,
            jnp.asarray(longer),
        )
        # what follows the end of an answer does not count
        np.testing.assert_allclose(losses, padded, rtol=1e-6)


@pytest.fixture(scope="module")
def xlstm() -> Iterator[ModuleType]:
    with imported("xlstm") as (found,):
        yield found


def block_of_the_package(kind):
    """Return a block of the package xlstm with random weights, and a dict of these
    weights as arrays.
    """
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:  # the example has the package's name
        patch.delitem(sys.modules, "xlstm")
        patch.setattr(
            sys, "path", [folder for folder in sys.path if folder != str(EXAMPLES)]
        )
        blocks = pytest.importorskip(
            "xlstm.xlstm_block_stack",
            reason="xlstm is not installed: pip install xlstm",
        )
    made = blocks.sLSTMBlockConfig() if kind == "s" else blocks.mLSTMBlockConfig()
    layer = made.slstm if kind == "s" else made.mlstm
    (
        layer.embedding_dim,
        layer.num_heads,
        layer.context_length,
        layer.backend,
        layer.dtype,
    ) = 32, 2, 9, "vanilla", "float32"
    made._num_blocks, made._block_idx = 1, 0
    made.__post_init__()
    block = (blocks.sLSTMBlock if kind == "s" else blocks.mLSTMBlock)(made).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape) * 0.2))
    return block, {
        name: parameter.detach().numpy() for name, parameter in block.named_parameters()
    }


def load_block(block, kind, weights):
    """Give a block of the example the weights of a block of the package."""
    mixer, own = (
        block.mixer,
        {name.removeprefix("xlstm."): array for name, array in weights.items()},
    )
    block.norm.scale[...] = 1 + own["xlstm_norm.weight"]
    mixer.kernel[...], mixer.bias[...] = (
        own["conv1d.conv.weight"][:, 0].T,
        own["conv1d.conv.bias"],
    )
    mixer.norm.scale[...] = (
        1 + own["group_norm.weight" if kind == "s" else "mlstm_cell.outnorm.weight"]
    )
    if kind == "s":
        block.mlp_norm.scale[...] = 1 + own["ffn_norm.weight"]
        block.up.kernel, block.down.kernel = (
            nnx.Param(jnp.asarray(own[f"ffn.proj_{name}.weight"].T))
            for name in ("up", "down")
        )
        return convert.load(mixer.layer, convert.slstm_from_xlstm(own))
    block.up.kernel[...], block.down.kernel[...] = (
        own["proj_up.weight"].T,
        own["proj_down.weight"].T,
    )
    block.skip[...] = own["learnable_skip"]
    return convert.load(mixer.layer, convert.mlstm_from_xlstm(own))


@pytest.mark.parametrize("kind", "sm")
def test_xlstm_blocks_include_those_of_the_package(xlstm, kind, peer_rules):
    torch = pytest.importorskip("torch")
    theirs, weights = block_of_the_package(kind)
    x = np.random.default_rng(1).normal(size=(3, 9, 32)).astype(np.float32)
    with peer_rules():
        block = xlstm.BLOCKS[kind](32, 2, 1, nnx.Rngs(0))
        load_block(block, kind, weights)
        found, _ = block(jnp.asarray(x), block.mixer.start(3))
    np.testing.assert_allclose(
        found, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_xlstm_writes_by_steps_what_it_predicts(xlstm, peer_rules):
    with peer_rules():
        model = xlstm.XLSTM(7, 8, 2, "ms", nnx.Rngs(0))
        ids = jax.random.randint(jax.random.key(0), (3, 9), 0, 7)
        whole, last = model(ids)
        first, memories = model(ids[:, :4])
        found = [first]
        for step in range(4, 9):
            logits, memories = model(ids[:, step : step + 1], memories)
            found.append(logits)
    for got, want in zip(
        jax.tree.leaves((jnp.concatenate(found, 1), memories)),
        jax.tree.leaves((whole, last)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_xlstm_learns_and_writes(xlstm, peer_rules, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, " * 300)
    with peer_rules():
        found = xlstm.run([str(path)], "sm", 150, 16, 2, 32, 8, 1e-2, 30)
    assert found.losses[0] / np.log(2) > 2.5
    assert found.bits < 1
    known = [
        found.text[start : start + 4] in path.read_text()
        for start in range(len(found.text) - 3)
    ]
    assert np.mean(known) > 0.5  # it draws at temperature 1


def test_tagging_follows_its_rule_and_beats_the_most_frequent_tag(peer_rules):
    with imported("tagging") as (tagging,), peer_rules():
        ids = np.array([["abcaba".index(letter) for letter in "abcaba"] + [0]])
        mask = np.arange(7)[None] < 6
        assert [tagging.TAGS[n] for n in tagging.tags_of(ids, mask)[0, :6]] == [
            "first",
            "first",
            "only",
            "middle",
            "last",
            "last",
        ]
        found = tagging.run(
            steps=200, units=32, letters=4, length=5, learning_rate=3e-2
        )
        assert found.losses[-1] < 0.2 * found.losses[0]
        assert found.accuracy > 0.9 > found.majority + 0.4
        rows = tagging.make_rows(5, 9, 6, np.random.default_rng(0))
        logits = jax.random.normal(jax.random.key(0), (5, 9, 4))
        marked = jnp.where(rows.mask[..., None], logits, 7.0)
        losses = [
            tagging.loss(lambda *_, given=given: given, *map(jnp.asarray, rows))
            for given in (logits, marked)
        ]
        assert not rows.mask.all()
        assert losses[0] == losses[1]  # padding does not count


def test_streaming_gives_what_whole_sentences_give():
    with imported("streaming") as (streaming,):
        found = streaming.run(steps=100, units=16, length=8, users=100, slots=8)
        assert found.accuracy > 0.7
        assert found.stream_difference < 1e-5
        assert found.server_difference < 1e-5
        assert len(found.session.probabilities) == 100
        assert found.session.words == sum(map(len, found.session.probabilities))
        assert found.session.ticks * 8 >= found.session.words
        sentences = streaming.make_sentences(50, 8, np.random.default_rng(0))
        for ids, length, label in zip(*sentences, strict=True):
            total, sign = 0, 1
            for word in (streaming.WORDS[n] for n in ids[:length]):
                value = (word in streaming.PRAISE) - (word in streaming.COMPLAINT)
                total, sign = (
                    total + sign * value,
                    -1 if word == "not" else 1 if value else sign,
                )
            assert (total > 0) == label
            assert total != 0


@pytest.mark.slow(keep=1)
@pytest.mark.filterwarnings("ignore:.torch.jit.load. is:DeprecationWarning")
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_voice_activity_gives_what_silero_vad_gives(rate, peer_rules):
    """On bursts of tones in noise, each of the three ways has the probabilities of
    Silero's own models.
    """
    for package in ("silero_vad", "onnxruntime"):
        pytest.importorskip(
            package,
            reason=f"{package} is not installed: pip install silero-vad onnxruntime",
        )
    with (
        imported("voice_activity", "voice_activity_peers") as (example, peers),
        peer_rules(),
    ):
        detector = example.read_detector(rate)
        rng, time = np.random.default_rng(0), np.arange(2 * rate + 100) / rate
        tone = np.sin(2 * np.pi * (150 + 30 * time) * time)
        audio = 0.2 * np.sign(tone) * (tone > 0.7) * (
            np.sin(20 * time) > 0
        ) + 0.01 * rng.standard_normal(len(time))
        frames = example.split(audio, detector.frame)
        wanted = peers.make_stateful(rate)(frames[:, None])[:, 0]
        assert np.ptp(wanted) > 0.1
        found = {
            "whole": peers.make_whole(detector)(frames),
            "torch": peers.make_torch(rate)(frames[:, None])[:, 0],
        }
        if rate == 16_000:
            found["sequence"] = peers.make_sequence()(frames)
        step = make_stepper(detector)
        found["stream"] = example.stream(step, detector.initial_state(1), frames)
        for name, probabilities in found.items():
            np.testing.assert_allclose(
                probabilities, wanted, rtol=0, atol=1e-5, err_msg=name
            )
        lengths = [9, 4, 0, 12, 1, 5, 7]
        recordings = [
            np.roll(frames, 9 * n, axis=0)[:length] for n, length in enumerate(lengths)
        ]
        for own, recording in zip(
            example.serve(step, detector.initial_state(3), recordings),
            recordings,
            strict=True,
        ):
            assert len(own) == len(recording)
            if len(own):
                np.testing.assert_allclose(
                    own,
                    peers.make_stateful(rate)(recording[:, None])[:, 0],
                    rtol=0,
                    atol=1e-5,
                )


def test_voice_activity_refuses(tmp_path, capsys):
    """A missing package and a file of another format end the program with one line."""
    for name, rate in (("speech.wav", 16_000), ("music.wav", 44_100)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(bytes(4_000))
    with (
        imported("voice_activity") as (example,),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(example, "find_spec", lambda name: None)
        for given, said in (
            ("speech.wav", "pip install silero-vad"),
            ("music.wav", "44100 Hz"),
            ("missing.wav", "missing.wav"),
        ):
            with pytest.raises(SystemExit):
                example.main([str(tmp_path / given)])
            assert said in capsys.readouterr().err.splitlines()[-1]


def test_onnx_models_compares_and_refuses(tmp_path, capsys):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install '.[onnx]'"
        )
    path = str(tmp_path / "gru.onnx")
    Path(path).write_bytes(
        convert.layers_to_onnx("gru", [GRU(3, 4, rngs=nnx.Rngs(0))]).SerializeToString()
    )
    with imported("onnx_models") as (example,):
        (name,) = convert.from_onnx(path).inputs
        example.main([path, "--shape", f"{name}=2,5,3"])
        found = re.search(
            r"nodes: gru forward; largest difference (\S+) of", capsys.readouterr().out
        )
        assert found
        assert float(found[1]) < 1e-5
        for given, said in (
            ([path, "--shape", "wide"], "--shape"),
            ([f"{path}x"], "gru.onnxx"),
            ([path, "--shape", f"{name}=2,5,9"], name),
        ):
            with pytest.raises(SystemExit):
                example.main(given)
            assert said in capsys.readouterr().err.splitlines()[-1]
