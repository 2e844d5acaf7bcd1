"""Recipes for parity-fixtures: one small odd network per thing that can go wrong, and networks drawn by lot.

Names are in the roles of a data set: `static`, `known` (ahead), `observed` (past only), and `late`, known ahead but
kept out of the encoder. A name that has an entry in `tables` is a categorical, or a group of columns. No variable may
be called like an attribute of a torch module (`cpu`, `float`, `type`): the library cannot register its layers.
"""

TRANSFORMATIONS = [None, "softplus", "relu", "log", "log1p", "logit", "count", "sqrt"]


def constructor(static="", known="", observed="", late="", tables=None, groups=None, **arguments):
    """Constructor arguments from the names in each role, in the order that the library's data sets give."""
    tables, groups = tables or {}, groups or {}
    roles = [role.split() for role in (static, known, late, observed)]
    static, known, late, observed = roles

    def reals(names):
        return [name for name in names if name not in tables]

    def categoricals(names):
        return [name for name in names if name in tables]

    every = static + known + late + observed
    unused = [table for table in tables if table not in every]
    return {
        "hidden_size": 6, "attention_head_size": 2, "hidden_continuous_size": 3, "max_encoder_length": 5,
        "static_reals": reals(static), "static_categoricals": categoricals(static),
        "time_varying_reals_encoder": reals(known + observed), "time_varying_reals_decoder": reals(known + late),
        "time_varying_categoricals_encoder": categoricals(known + observed),
        "time_varying_categoricals_decoder": categoricals(known + late),
        "x_reals": reals(every),
        "x_categoricals": [column for table in categoricals(every) + unused for column in groups.get(table, [table])],
        "embedding_sizes": tables, "categorical_groups": groups,
    } | arguments


# A bit of everything: what most recipes below change in one respect.
FLEET = {
    "static": "server ram", "known": "hour sin", "observed": "busy state",
    "tables": {"server": [4, 3], "hour": [5, 2], "state": [3, 3]},
}


def recipe(name, note, back=(None,), loss=None, batch=None, other=None, **roles_and_arguments):
    return {
        "name": name, "note": note, "seed": sum(map(ord, name)),
        "constructor": constructor(**roles_and_arguments),
        "output_transformations": list(back), "loss": loss or {}, "batch": batch or {},
    } | (other or {})


def fleet(name, note, **changes):
    outside = {key: changes.pop(key) for key in ("back", "loss", "batch", "other") if key in changes}
    return recipe(name, note, **outside, **(FLEET | changes))


def zoo():
    """All odd networks."""
    return sizes() + selections() + inputs() + attention() + outputs() + lengths() + magnitudes() + training()


def sizes():
    odd = [(1, 1), (2, 1), (3, 2), (4, 3), (5, 5), (7, 3), (13, 4)]
    return [
        fleet(f"hidden_{hidden}_heads_{heads}", "a hidden size that the heads do not divide, or nearly nothing of both",
              hidden_size=hidden, attention_head_size=heads)
        for hidden, heads in odd
    ] + [
        fleet("layers_3", "three LSTM layers", lstm_layers=3),
        fleet("dropout_half", "dropout that evaluation must leave out", dropout=0.5, lstm_layers=2),
        fleet("as_constructed", "weights as the constructor leaves them", other={"shaken": False}),
        fleet("widths", "reals of width 1, of hidden_size, of more", static="server ram cores",
              hidden_continuous_sizes={"ram": 1, "sin": 6, "busy": 11, "cores": 6}),
    ]


def selections():
    one = {"static": "", "observed": ""}
    return [
        recipe("static_none", "no static variable", known="hour sin", observed="busy", tables={"hour": [5, 2]}),
        recipe("static_one_real", "one static variable: no static selection", static="ram", known="sin",
               observed="busy"),
        recipe("static_one_code", "one static categorical as wide as the network", static="server", known="sin cos",
               observed="busy", tables={"server": [4, 6]}),
        recipe("varying_one_real", "one known real on both sides, nothing else", known="sin", **one),
        recipe("varying_one_code", "one known categorical on both sides, nothing else", known="hour",
               tables={"hour": [5, 2]}, **one),
        recipe("decoder_none", "nothing known ahead", static="server ram", observed="busy mem",
               tables={"server": [4, 3]}),
        recipe("decoder_none_encoder_one", "one observed real, nothing known ahead", observed="busy"),
        recipe("encoder_none", "known ahead, but not to the encoder, which has nothing", static="ram", late="sin cos"),
        recipe("nothing_at_all", "no variable of any kind"),
        fleet("decoder_alone_knows", "known variables that the encoder does not get", late="plan sale",
              tables=FLEET["tables"] | {"sale": [2, 1]}),
        fleet("shared_all", "single-variable networks shared by both sides, categoricals included",
              share_single_variable_networks=True, late="plan"),
        fleet("shared_widths", "shared networks of reals and tables as wide as the network, or wider",
              share_single_variable_networks=True, hidden_continuous_sizes={"sin": 6, "busy": 9, "ram": 2},
              tables={"server": [4, 3], "hour": [5, 6], "state": [3, 1]}),
        recipe("shared_one", "shared networks of a single variable", known="hour", static="ram cores",
               tables={"hour": [5, 2]}, share_single_variable_networks=True),
        recipe("one_real_two_roles", "a real that is static and varies", static="ram busy", known="sin",
               observed="busy mem", x_reals=["mem", "busy", "sin", "ram"]),
    ]


def inputs():
    groups = {"events": ["holiday", "deploy", "sale"], "tags": ["tag_a", "tag_b"]}
    tables = {"tags": [5, 3], "hour": [5, 2], "events": [4, 6]}
    grouped = {"static": "tags ram", "known": "events hour", "observed": "busy", "tables": tables, "groups": groups}
    return [
        recipe("groups", "sums of embeddings, static and known", **grouped),
        recipe("groups_shared", "sums of embeddings through shared networks", share_single_variable_networks=True,
               **grouped),
        recipe("groups_padded", "a group among the paddings has no padding row, a table has",
               embedding_paddings=["events", "hour"], **grouped),
        fleet("padding", "row 0 of three tables gets no gradient", embedding_paddings=["server", "hour", "state"]),
        fleet("padding_of_two", "a table of two rows, one of them padding", embedding_paddings=["server", "flag"],
              known="hour sin flag", tables=FLEET["tables"] | {"flag": [2, 1]}),
        fleet("table_wider_than_hidden", "embeddings wider than the network are cut to it", hidden_size=4,
              tables={"server": [9, 11], "hour": [5, 4], "state": [3, 5]}),
        fleet("tables_by_rule", "embedding widths from the number of classes",
              tables={"server": 21, "hour": 24, "state": 2}),
        fleet("unused_columns", "tables and reals that no list names", tables=FLEET["tables"] | {"rack": [6, 2]},
              x_reals=["spare", "busy", "sin", "other", "ram"]),
    ]


def attention():
    ragged = {"encoder_lengths": [5, 2, 4], "decoder_lengths": [4, 4, 1]}
    return [
        fleet("mask_1e4", "a mask of -1e4", mask_bias=-1e4, batch=ragged),
        fleet("mask_inf", "a mask of minus infinity", mask_bias="-inf", batch=ragged),
        fleet("mask_soft", "a mask so weak that masked steps, padding included, still count", mask_bias=-2.0,
              batch=ragged),
        fleet("causal_off", "forecast steps attend to all others", causal_attention=False),
        fleet("causal_off_ragged", "forecast steps attend to all there are", causal_attention=False, batch=ragged),
        fleet("heads_1", "one head", attention_head_size=1),
    ]


def outputs():
    several = {"sample_weights": True, "encoder_lengths": [5, 3, 1], "decoder_lengths": [2, 4, 3]}
    return [
        fleet(f"back_{name}", f"the output transformation {name}", back=[name]) for name in TRANSFORMATIONS if name
    ] + [
        fleet("back_mixed", "every output transformation at once", back=TRANSFORMATIONS, hidden_size=5,
              # A seed that rounding does not disturb much: some of these networks are steep.
              loss={"target_weights": [1, 0.5, 2, 0.1, 0.1, 3, 1, 0.7]}, other={"seed": 19}),
        fleet("quantiles_differ", "every target has its own quantiles", back=["softplus", None, "relu"], batch=several,
              loss={"quantiles": [[0.5], [0.1, 0.9], [0.02, 0.25, 0.5, 0.75, 0.98]],
                    "target_weights": [1.0, 2.0, 0.25]}),
        fleet("quantiles_1", "the median alone", loss={"quantiles": [0.5]}),
        fleet("quantiles_7", "seven quantiles, sample weights", batch={"sample_weights": True},
              loss={"quantiles": [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]}),
    ]


def lengths():
    def empties(name, note, encoder, **changes):
        decoder = [3 - i % 2 for i in range(len(encoder))]
        return fleet(name, note, batch={"encoder_lengths": encoder, "decoder_lengths": decoder}, **changes)

    return [
        fleet("history_1", "one step of history", batch={"encoder_lengths": [1, 1, 1]}),
        fleet("horizon_1", "one step to forecast", batch={"horizon": 1}),
        fleet("batch_1", "one sample", batch={"samples": 1}),
        fleet("all_1", "one sample, one step, one more", batch={"encoder_lengths": [1], "horizon": 1}),
        fleet("ragged", "other lengths for every sample, on both sides, and sample weights", lstm_layers=2,
              batch={"encoder_lengths": [5, 1, 4, 2], "decoder_lengths": [1, 4, 2, 3], "sample_weights": True}),
        empties("empty_first", "the first history is empty", [0, 4, 2]),
        empties("empty_some", "some histories are empty, with two layers", [3, 0, 5, 0, 0], lstm_layers=2,
                hidden_size=5),
        empties("empty_most", "all histories but one are empty, with three layers", [0, 0, 2], lstm_layers=3),
        empties("empty_soft", "empty histories behind a weak mask: their padding counts", [0, 3, 0], mask_bias=-2.0),
        recipe("empty_all", "no history at all", known="sin", hidden_continuous_size=6,
               batch={"encoder_lengths": [0, 0], "decoder_lengths": [3, 2]}),
    ]


def magnitudes():
    return [
        fleet("target_1e6", "a target in bytes", batch={"target_magnitude": 1e6}),
        fleet("target_1e6_softplus", "a positive target in bytes", back=["softplus"], batch={"target_magnitude": 1e6}),
        fleet("inputs_1e6", "reals of the size that follows a constant window", batch={"magnitude": 1e6}),
        fleet("inputs_tiny", "reals near zero", batch={"magnitude": 1e-6}),
        fleet("inputs_zero", "reals that are zero", batch={"magnitude": 0.0}),
        fleet("constant", "reals that never move, a target without spread", batch={"constant": True, "scale": 1.2e-7}),
    ]


def training():
    def run(name, note, hidden_size=5, lstm_layers=2, **plan):
        return recipe(
            name, note, static="server ram", known="events hour", observed="busy mem",
            hidden_size=hidden_size, lstm_layers=lstm_layers,
            tables={"server": [4, 3], "hour": [5, 2], "events": [4, 3]}, embedding_paddings=["server", "hour"],
            groups={"events": ["holiday", "deploy"]}, back=["softplus", None],
            loss={"quantiles": [[0.5], [0.1, 0.5, 0.9]], "target_weights": [1.0, 0.5]},
            batch={"encoder_lengths": [5, 0, 3, 2], "decoder_lengths": [3, 3, 1, 2], "sample_weights": True},
            other={"train": {"steps": 12, "batches": 2, "lr": 0.005, "clip": 0.1} | plan})

    return [
        run("train_odd", "a training run with groups, padding, empty histories and other quantiles per target"),
        run("checkpoint_odd", "what such a run leaves behind", hidden_size=3, lstm_layers=1, steps=5, checkpoint=True),
    ]


def drawn(dice, name):
    """A network drawn by lot."""
    def some(names, most):
        return " ".join(dice.sample(names, dice.randint(0, most)))

    hidden = dice.randint(1, 17)
    static, known = some(["server", "profile", "ram", "cores"], 4), some(["hour", "events", "sin", "cos"], 4)
    observed, late = some(["state", "busy", "mem", "load"], 4), some(["plan"], 1)
    used = f"{static} {known} {observed} {late}".split()
    tables = {t: [dice.randint(2, 9), dice.randint(1, 9)] for t in ("server", "profile", "hour", "events", "state")
              if t in used}
    wide = {r: dice.randint(1, 12) for r in ("ram", "sin", "busy", "load", "plan") if dice.random() < 0.4}
    samples, longest, horizon = dice.randint(1, 6), dice.randint(1, 9), dice.randint(1, 6)
    shortest = 0 if dice.random() < 0.3 else 1
    encoder = [longest] + [dice.randint(shortest, longest) for _ in range(samples - 1)]
    decoder = [horizon] + [dice.randint(1, horizon) for _ in range(samples - 1)]
    if dice.random() < 0.4:
        encoder, decoder = [longest] * samples, [horizon] * samples
    dice.shuffle(encoder)
    back = [dice.choice(TRANSFORMATIONS) for _ in range(dice.choice([1, 1, 2, 3]))]
    quantiles = [sorted(dice.sample([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98], dice.randint(1, 7))) for _ in back]
    weights = [round(dice.uniform(0.1, 3.0), 3) for _ in back] if len(back) > 1 and dice.random() < 0.7 else None
    return recipe(
        name, "drawn by lot", back=back, static=static, known=known, observed=observed, late=late, tables=tables,
        groups={"events": ["holiday", "deploy"]} if "events" in tables else {},
        hidden_size=hidden, attention_head_size=dice.randint(1, min(hidden, 5)), lstm_layers=dice.randint(1, 3),
        hidden_continuous_size=dice.randint(1, 12), hidden_continuous_sizes=wide, max_encoder_length=longest,
        embedding_paddings=[t for t in tables if dice.random() < 0.4],
        share_single_variable_networks=dice.random() < 0.3, causal_attention=dice.random() < 0.6,
        mask_bias=dice.choice([-1e9, -1e4, -3.0] + (["-inf"] if min(encoder) > 0 else [])),
        loss={"quantiles": quantiles if len(back) > 1 else quantiles[0], "target_weights": weights},
        batch={"encoder_lengths": encoder, "decoder_lengths": decoder, "sample_weights": dice.random() < 0.4,
               "target_magnitude": dice.choice([1.0, 1.0, 0.01])},
        other={"seed": dice.randint(0, 10**6)},
    )
