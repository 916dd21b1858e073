"""The defences of boxes that train together: rows of `mutants`, without its ``fast``.

Name, file, what stands there exactly once, what stands there without the defence, and the test that
must fail.
"""

_AT = "device_agent/cotrain"
_IN = "edge_stl/cotrain"
_ADDRESS, _AGREED, _END = f"{_AT}/_address.py", f"{_AT}/_start.py", f"{_AT}/_end.py"
_EXCHANGE, _GROUP, _JOB = f"{_AT}/_exchange.py", f"{_AT}/_group.py", f"{_AT}/job.py"
_LINK, _MEETING, _ROUNDS = f"{_AT}/_link.py", f"{_AT}/_meeting.py", f"{_AT}/_rounds.py"
_SAVED, _SCORES, _STAR = f"{_AT}/_saved.py", f"{_AT}/_scores.py", f"{_AT}/_star.py"
_ELIAS, _MESSAGE, _SIGN = f"{_IN}/_elias.py", f"{_IN}/_message.py", f"{_IN}/_sign.py"
_MASKS, _FEDWIRE, _SERVER = f"{_IN}/_masks.py", f"{_IN}/_fedwire.py", f"{_IN}/_fedserver.py"
_SPARSE, _NGC, _RANDOM = f"{_IN}/_sparse.py", f"{_IN}/_ngc.py", f"{_IN}/_random.py"
_SENT, _TOLD = f"{_AT}/_sent.py", "exporter/cotrained.py"
_STRATEGY, _APPS = "device_agent/flower/_strategy.py", "device_agent/flower/_apps.py"

_ENGINE = "tests/cotrain_engine"
_METHODS = "tests/cotrain"
_T_EXCHANGE, _T_MEETING = f"{_ENGINE}/test_exchange.py", f"{_ENGINE}/test_meeting.py"
_T_END, _T_JOBS, _T_SAVED = (f"{_ENGINE}/test_{name}.py" for name in ("end", "jobs", "saved"))
_T_STAR, _T_GROUP = f"{_ENGINE}/test_star.py", f"{_ENGINE}/test_group_file.py"
_T_STRANGERS = f"{_ENGINE}/test_strangers.py"
_T_MESSAGE, _T_ELIAS = f"{_METHODS}/test_message.py", f"{_METHODS}/test_elias.py"
_T_SPARSE, _T_SIGN = f"{_METHODS}/test_sparse.py", f"{_METHODS}/test_sign.py"
_T_MASKS, _T_WIRE = f"{_METHODS}/test_masks.py", f"{_METHODS}/test_fedwire.py"
_T_RANDOM, _T_NGC = f"{_METHODS}/test_random_sampling.py", f"{_METHODS}/test_ngc.py"
_T_FLOWER, _T_REFUSED = f"{_METHODS}/test_flower.py", f"{_METHODS}/test_refused.py"
_LENGTH = f"{_T_EXCHANGE}::test_a_length_that_no_message_has_is_refused_before_memory_is_taken"
_FOREIGN = f"{_T_EXCHANGE}::test_what_is_no_message_of_this_round_loses_its_sender"
_LIFE = f"{_T_EXCHANGE}::test_silence_loses_a_peer_and_its_sign_of_life_does_not"
_HALF = f"{_T_EXCHANGE}::test_a_peer_that_only_listens_or_only_talks_is_lost"
_PUBLIC = f"{_T_MEETING}::test_a_public_address_is_refused"
_OTHER = f"{_T_MEETING}::test_a_box_that_does_something_else_is_refused_by_name"
_CARE = f"{_T_MEETING}::test_what_a_box_says_is_read_with_care"
_KEPT = f"{_T_JOBS}::test_rounds_that_are_kept_belong_to_plan_box_seed_images_and_version"
_LOST_LINK = (
    f"{_T_JOBS}::test_a_link_that_is_lost_to_all_others_stops_the_box_and_all_go_on_later_"
    "to_the_same_bytes"
)
_MODEL = f"{_T_END}::test_a_model_of_another_size_or_counts_that_cannot_be_lose_their_sender"
_SUMS = f"{_T_END}::test_scores_survive_the_wire_and_wrong_ones_are_refused"
_LAST = f"{_T_END}::test_a_last_word_is_read_whole_or_not_at_all"
_COUNTS = (
    f"{_T_END}::test_byte_counts_survive_the_wire_in_as_many_bytes_for_every_box_and_wrong_ones_"
    "are_refused"
)
_T_SETTINGS = "tests/exporter/test_group_settings.py"
_SETTINGS = f"{_T_SETTINGS}::test_settings_that_no_group_has_are_refused_in_one_line"
_FORGED = f"{_T_ELIAS}::test_a_forged_block_is_refused"
_ANSWER = f"{_T_WIRE}::test_an_answer_that_does_not_fit_is_refused_and_the_others_count"
_ORDER = f"{_T_WIRE}::test_an_order_that_does_not_fit_is_refused"
_UNFIT = f"{_T_SPARSE}::test_a_message_that_cannot_be_is_refused"

ROWS = [
    # -- who may meet where -------------------------------------------------------------------
    (
        "no address is public", _ADDRESS,
        "if ip.is_global or ip.is_multicast:", "if ip.is_multicast:", _PUBLIC,
    ),
    (
        "no address is one of many", _ADDRESS,
        "if ip.is_global or ip.is_multicast:", "if ip.is_global and not ip.is_multicast:", _PUBLIC,
    ),
    (
        "an address is not every interface", _ADDRESS, "    if ip.is_unspecified:\n",
        "    if False:\n", f"{_T_MEETING}::test_every_interface_at_once_is_refused",
    ),
    (
        "all addresses of a name are private", _ADDRESS,
        "    for address in addresses:\n", "    for address in addresses[:1]:\n",
        f"{_T_MEETING}::test_a_name_with_one_public_address_is_refused",
    ),
    (
        "the own address is private", _ADDRESS,
        '    refuse_public(address, where=f"the address of this box towards {master}")\n', "",
        f"{_T_MEETING}::test_the_address_that_gloo_binds_is_private_too",
    ),
    (
        "the interface that is named is private", _ADDRESS,
        '        refuse_public(address, where=f"GLOO_SOCKET_IFNAME={names[0]}")\n', "",
        f"{_T_MEETING}::test_the_interface_that_is_named_is_looked_at",
    ),
    (
        "the store listens on the private address alone", _MEETING,
        "listening.bind((self._host, place.port))", 'listening.bind(("", place.port))',
        f"{_T_MEETING}::test_the_first_box_holds_the_meeting_on_its_private_address_alone",
    ),
    (
        "gloo listens on the private address alone", _MEETING,
        "create_device(hostname=self._own)", 'create_device(hostname="127.0.0.1")',
        f"{_T_MEETING}::test_gloo_listens_on_the_own_address_alone",
    ),
    (
        "who is not in the group file takes no part", _MEETING,
        "    if box not in boxes:\n", "    if False:\n",
        f"{_T_MEETING}::test_a_box_that_is_not_enrolled_is_refused",
    ),
    (
        "a rank is the place of the box", _MEETING, "        if rank != own:\n",
        "        if False:\n",
        f"{_T_MEETING}::test_a_rank_that_is_not_the_place_of_the_box_is_refused",
    ),
    (
        "there are as many processes as boxes", _MEETING,
        "        if world != len(boxes):\n", "        if False:\n",
        f"{_T_MEETING}::test_another_number_of_processes_than_boxes_is_refused",
    ),
    (
        "a place is taken once", _MEETING, "        if taken != own.encode():\n",
        "        if False:\n", f"{_T_MEETING}::test_the_same_rank_twice_is_refused",
    ),
    (
        "a meeting point that goes away is one line", _MEETING,
        "            return self._exchanged(store, own)\n        except RuntimeError:\n",
        "            return self._exchanged(store, own)\n        except ZeroDivisionError:\n",
        f"{_T_MEETING}::test_a_meeting_point_that_goes_away_is_one_line",
    ),
    (
        "what a box says has a size", _MEETING,
        "json.loads(text) if len(text) <= _MOST_BYTES else None", "json.loads(text)", _CARE,
    ),
    (
        "what a box says is a table", _MEETING,
        "    if not isinstance(document, dict):\n", "    if document is None:\n", _CARE,
    ),
    (
        "what a box says is not too deep", _MEETING,
        "    except (ValueError, RecursionError):\n", "    except ValueError:\n", _CARE,
    ),
    (
        "who holds the store lets the others read why they are refused", _MEETING,
        "                if self._store.check(keys):\n", "                if True:\n",
        f"{_T_MEETING}::test_who_refuses_lets_the_others_read_why",
    ),
    # -- what all must agree on ---------------------------------------------------------------
    (
        "a box is the one of its rank", _AGREED,
        '        if facts.get("box") != name:\n', "        if False:\n", _OTHER,
    ),
    (
        "boxes have one version", _AGREED,
        '        "version": ("edge-stl", "Install the same version on every box"),\n', "", _OTHER,
    ),
    (
        "boxes have one plan", _AGREED,
        '        "plan": ("plan", "Copy the same plan file to every box"),\n', "", _OTHER,
    ),
    (
        "boxes have one group, method and options", _AGREED,
        '        "group": ("group file, method or options", "Start every box with the same '
        'ones"),\n',
        "", _OTHER,
    ),
    (
        "boxes have one resolution", _AGREED,
        '        "resolution": (\n            "native resolution",\n            "Group boxes whose '
        'images have the same; others train a branch of their own",\n        ),\n',
        "", _OTHER,
    ),
    (
        "boxes have one time limit", _AGREED,
        '        "patience": ("--peer-timeout", "Start every box with the same one"),\n', "",
        _OTHER,
    ),
    (
        "a box says its plan", _JOB,
        '            "plan": self._job.plan.digest,\n', '            "plan": "",\n',
        f"{_T_JOBS}::test_boxes_that_do_something_else_are_refused_in_one_line_on_each[plan]",
    ),
    (
        "a box says its time limit", _JOB,
        '"patience": self._asked.peer_timeout', '"patience": 0',
        f"{_T_JOBS}::test_boxes_that_do_something_else_are_refused_in_one_line_on_each[patience]",
    ),
    (
        "the seed is of the group", _GROUP,
        'exclude={"meet"}', 'exclude={"meet", "seed"}',
        f"{_T_GROUP}::test_whatever_changes_the_numbers_makes_another_run",
    ),
    (
        "the method is of the group", _GROUP, '            "method": self.method,\n', "",
        f"{_T_GROUP}::test_whatever_changes_the_numbers_makes_another_run",
    ),
    (
        "the settings are of the group", _GROUP, '            "settings": self._table,\n', "",
        f"{_T_GROUP}::test_the_table_of_the_method_is_taken",
    ),
    (
        "a group file has a size", f"{_AT}/_tables.py", "    if len(raw) > _MOST_FILE_BYTES:\n",
        "    if False:\n", f"{_T_GROUP}::test_a_wrong_group_is_refused_in_one_line",
    ),
    (
        "a network with batch norm is not averaged", _JOB,
        "    refuse_batch_norm(plan, branch)\n", "",
        f"{_T_JOBS}::test_a_network_that_cannot_be_averaged_is_refused_before_the_others_are_met",
    ),
    (
        "images carry the branch", _JOB, "            _carries(plan, cache, run)\n", "",
        f"{_T_JOBS}::test_images_that_are_too_coarse_for_the_branch_are_refused_before_the_others_"
        "are_met",
    ),
    (
        "a key that leaves the box signs nothing", _JOB,
        "        check_signing(job, work)\n", "",
        f"{_T_JOBS}::test_a_key_that_would_leave_the_box_is_refused_before_the_others_are_met",
    ),
    (
        "the file of a group is signed under its id", _JOB,
        "named = replace(job, box=run.group.name)", "named = job",
        f"{_T_JOBS}::test_the_file_of_a_group_is_signed_and_taken_from_who_is_trusted_alone",
    ),
    (
        "scores leave a box with the floor of the plan", _SCORES,
        "np.where(held > 0, np.maximum(held, floor), 0)", "held",
        f"{_T_END}::test_with_a_floor_no_count_below_it_is_told",
    ),
    # -- the rounds that are kept -------------------------------------------------------------
    (
        "kept rounds are of this plan", _JOB, "        plan=asked.job.plan.digest,\n", "", _KEPT,
    ),
    (
        "kept rounds are of this group and seed", _JOB, "        run=asked.run.digest,\n", "",
        _KEPT,
    ),
    (
        "kept rounds are of these images", _JOB, "        images=images,\n", "", _KEPT,
    ),
    (
        "kept rounds are of this version", _JOB,
        "        version=__version__,\n    )\n", "    )\n", _KEPT,
    ),
    (
        "kept rounds of another key are none", "device_agent/checkpoint.py",
        '        if meta["key"] != key:\n', "        if False:\n",
        f"{_T_SAVED}::test_state_and_bytes_of_a_kept_round_come_back",
    ),
    (
        "kept rounds are written as a whole", "device_agent/checkpoint.py",
        "    write_record(folder / _FILE, body)\n\n\ndef load",
        "    (folder / _FILE).write_bytes(body)\n\n\ndef load", _T_SAVED,
    ),
    (
        "the round before a stop is kept", _SAVED,
        "zip((_STOP, _BEFORE), (0, 1), states", "zip((_STOP,), (0,), states",
        f"{_T_SAVED}::test_the_moment_of_a_stop_is_kept_beside_them",
    ),
    (
        "three rounds are kept", _SAVED, "_SLOTS = 3", "_SLOTS = 1",
        f"{_T_SAVED}::test_state_and_bytes_of_a_kept_round_come_back",
    ),
    (
        "a box that is alone stops", _ROUNDS, "        if alone:\n", "        if False:\n",
        _LOST_LINK,
    ),
    (
        "a box that is alone keeps its rounds", _ROUNDS,
        "        if alone:\n            saved.stop(number, states, ledger, exchange.rank)\n",
        "        if alone:\n", _LOST_LINK,
    ),
    (
        "kept rounds are gone on from", _JOB,
        "                engine.restore(state)\n", "", _LOST_LINK,
    ),
    # -- the wire -----------------------------------------------------------------------------
    (
        "a message has a size before memory is taken", _LINK,
        "if not HEADER_BYTES <= length <= self._largest:", "if length < HEADER_BYTES:", _LENGTH,
    ),
    (
        "a message has at least a header", _LINK,
        "if not HEADER_BYTES <= length <= self._largest:", "if length > self._largest:", _LENGTH,
    ),
    (
        "what a short piece leaves out is no old memory", _LINK,
        "whole = torch.zeros(count", "whole = torch.empty(count",
        f"{_T_EXCHANGE}::test_what_a_short_piece_leaves_out_is_zero_and_no_old_memory",
    ),
    (
        "messages that wait have an end", _LINK,
        "full = self._incoming.qsize() >= _QUEUED", "full = False",
        f"{_T_EXCHANGE}::test_a_flood_of_messages_is_refused",
    ),
    (
        "a box that hangs looks dead", _LINK,
        "                    if self._pulse.beats():\n", "                    if True:\n",
        f"{_T_EXCHANGE}::test_a_main_thread_that_hangs_gives_no_sign_of_life",
    ),
    (
        "a box that waits looks alive", _LINK,
        "                        self._put(_frame(_ALIVE))\n", "", _LIFE,
    ),
    (
        "silence has an end", _LINK,
        "self._wire.recv([piece], self._peer, 0).wait(timedelta(seconds=self._limit))",
        "self._wire.recv([piece], self._peer, 0).wait(timedelta(seconds=60))", _HALF,
    ),
    (
        "a peer that takes nothing is lost", _LINK,
        "self._wire.send([piece], self._peer, 0).wait(timedelta(seconds=self._limit))",
        "self._wire.send([piece], self._peer, 0).wait(timedelta(seconds=60))", _HALF,
    ),
    (
        "a box that leaves says so", _LINK,
        "                    self._put(_frame(_GOODBYE))\n", "",
        f"{_T_EXCHANGE}::test_a_box_that_leaves_is_told_once_by_name_and_the_others_go_on",
    ),
    (
        "what came before a goodbye is taken", _LINK,
        "        data = self._incoming.get(timeout=wait)\n",
        "        data = None if self.lost else self._incoming.get(timeout=wait)\n",
        f"{_T_EXCHANGE}::test_a_link_that_is_closed_early_keeps_what_came_before",
    ),
    (
        "a message is of its round", _EXCHANGE,
        "if message.round != number or message.kind not in kinds:",
        "if message.kind not in kinds:", _FOREIGN,
    ),
    (
        "a message is of its kind", _EXCHANGE,
        "if message.round != number or message.kind not in kinds:",
        "if message.round != number:", _FOREIGN,
    ),
    (
        "what is no message loses its sender alone", _EXCHANGE,
        "        except DataError as error:\n",
        "        except ZeroDivisionError as error:\n", _FOREIGN,
    ),
    (
        "a box that is lost is named", _EXCHANGE,
        '        self._told(f"{self._names[rank]}: lost, {reason}; going on without it")\n', "",
        f"{_T_EXCHANGE}::test_a_box_that_leaves_is_told_once_by_name_and_the_others_go_on",
    ),
    (
        "a box that is lost is named once", _EXCHANGE,
        "        if rank in self.lost:\n            return\n", "",
        f"{_T_EXCHANGE}::test_a_box_that_leaves_is_told_once_by_name_and_the_others_go_on",
    ),
    (
        "who waits for a message can be stopped", _EXCHANGE,
        "            self._check()\n", "",
        f"{_T_EXCHANGE}::test_who_waits_for_a_message_can_be_stopped",
    ),
    (
        "a box that gloo ends says so", "edge_stl/_parent.py",
        '_AGENTS = ("train", "cotrain")', '_AGENTS = ("train",)', _T_STRANGERS,
    ),
    # -- the end of a run ---------------------------------------------------------------------
    (
        "a model that does not fit loses its sender alone", _END,
        "                message.indices, self._classes\n            )\n        except DataError",
        "                message.indices, self._classes\n            )\n        except KeyError",
        _MODEL,
    ),
    (
        "image counts have a length", _END, "    if len(data) != 8 * classes:\n",
        "    if False:\n", _MODEL,
    ),
    (
        "image counts can be", _END,
        "    if counts.min() < 0 or counts.max() > _MOST_COUNT or not counts.any():\n",
        "    if False:\n", _MODEL,
    ),
    (
        "scores have a length", _END,
        "    if len(data) != 8 * (rows * classes + rows + classes + 1):\n", "    if False:\n",
        _SUMS,
    ),
    (
        "scores can be", _END,
        "if not np.isfinite(flat).all() or flat.min() < 0 or flat.max() > _MOST_COUNT:",
        "if False:", _SUMS,
    ),
    (
        "no more answers are right than there are", _END,
        "    if (right > judged).any():\n", "    if False:\n", _SUMS,
    ),
    (
        "what the writer tells is read with care", _END,
        "except (ValueError, KeyError, TypeError, RecursionError):", "except ZeroDivisionError:",
        _LAST,
    ),
    (
        "a writer that cannot be read is lost", _END,
        "            return read_last(message.indices, leader, self._boxes)\n"
        "        except DataError:\n",
        "            return read_last(message.indices, leader, self._boxes)\n"
        "        except ZeroDivisionError:\n",
        f"{_T_END}::test_a_writer_that_tells_nonsense_is_lost_and_the_next_box_writes",
    ),
    (
        "members are boxes of the group", _END,
        "    if not all(isinstance(rank, int) and 0 <= rank < boxes for rank in members):\n",
        "    if False:\n", _LAST,
    ),
    (
        "byte counts have a length", _SENT, "    if len(data) != boxes * SENT_BYTES:\n",
        "    if False:\n", _COUNTS,
    ),
    (
        "byte counts are not negative", _SENT,
        "    if ((rows < 0).any(axis=1) & ~unknown).any() or rows.max() > _MOST_SENT:\n",
        "    if rows.max() > _MOST_SENT:\n", _COUNTS,
    ),
    (
        "byte counts have a limit", _SENT,
        "    if ((rows < 0).any(axis=1) & ~unknown).any() or rows.max() > _MOST_SENT:\n",
        "    if ((rows < 0).any(axis=1) & ~unknown).any():\n", _COUNTS,
    ),
    (
        "a box knows what has left it", _SENT, "    if sent is None:\n", "    if False:\n", _COUNTS,
    ),
    (
        "byte counts that cannot be lose their sender", _END,
        ", unpack_own(message.indices)\n", ", Bytes()\n",
        f"{_T_END}::test_byte_counts_that_cannot_be_lose_their_sender",
    ),
    # -- what a branch file says of its settings ----------------------------------------------
    (
        "a setting is no object, path or sentence", _TOLD,
        "            return numbers\n    raise ",
        "            return numbers\n    return value\n    raise ",
        _SETTINGS,
    ),
    (
        "a setting is a short word and nothing more", _TOLD, "_WORD.fullmatch(value)",
        "_WORD.match(value)", _SETTINGS,
    ),
    (
        "a list of a setting is short", _TOLD, " and len(value) <= MOST_NUMBERS:\n", ":\n",
        _SETTINGS,
    ),
    (
        "every box has a rank", _TOLD, "if sorted(ranks) != list(range(boxes)):", "if False:",
        _SETTINGS,
    ),
    (
        "edges are told where the graph's name does not say them", _TOLD,
        "if (edges is not None) != told_by_edges(self.graph):", "if False:",
        f"{_T_SETTINGS}::test_edges_have_one_form",
    ),
    (
        "edges have one form", _TOLD, "list(edges) != sorted(set(edges)) or ", "",
        f"{_T_SETTINGS}::test_edges_have_one_form",
    ),
    (
        "settings are those of the training", "exporter/manifest.py", "if own != said:",
        "if False:", _SETTINGS,
    ),
    (
        "a file of edges keeps its name to itself", _GROUP,
        "if self.group.graph in _KNOWN_GRAPHS else",
        "if self.group.graph.startswith(_KNOWN_GRAPHS) else",
        f"{_T_GROUP}::test_a_file_of_edges_beside_the_group_may_be_called_like_a_kind_of_graph",
    ),
    (
        "a model that only the server had is not made up", _END,
        "            if self._hub is not None and alive[0] != 0:\n", "            if False:\n",
        f"{_T_END}::test_a_server_that_is_lost_at_the_end_takes_its_model_with_it",
    ),
    (
        "a worker without the first box stops", _STAR,
        '        if means is None:\n            raise Interrupted(f"{self._hub}, which sums',
        '        if False:\n            raise Interrupted(f"{self._hub}, which sums',
        f"{_T_STAR}::test_a_middle_that_is_lost_ends_the_run_and_another_box_does_not[pca]",
    ),
    (
        "a client without the server stops", _STAR,
        "        if message is None or HUB in exchange.lost:\n",
        "        if HUB in exchange.lost and message is not None:\n",
        f"{_T_STAR}::test_a_middle_that_is_lost_ends_the_run_and_another_box_does_not[fedavg]",
    ),
    # -- what a message may hold --------------------------------------------------------------
    (
        "a message is one of ours", _MESSAGE,
        "if len(data) < HEADER_BYTES or data[:4] != _MAGIC:", "if len(data) < HEADER_BYTES:",
        _FOREIGN,
    ),
    (
        "a message is whole", _MESSAGE,
        "        if len(data) != HEADER_BYTES + n_indices + n_values:\n", "        if False:\n",
        f"{_T_MESSAGE}::test_a_message_that_was_cut_is_refused",
    ),
    (
        "numbers are as many as asked for", _MESSAGE,
        "    if len(data) != 4 * count:\n", "    if False:\n",
        f"{_T_MESSAGE}::test_too_few_numbers_are_refused",
    ),
    (
        "numbers of a neighbour are finite", _MESSAGE,
        "    if not bool(torch.isfinite(vector).all()):\n", "    if False:\n",
        f"{_T_MESSAGE}::test_numbers_that_are_not_finite_are_refused",
    ),
    (
        "a whole vector has no indices", _SPARSE,
        "            if message.indices:\n", "            if False:\n", _UNFIT,
    ),
    (
        "a message has no more numbers than the model", _SPARSE,
        "if message.flag != SOME or count > size:", "if message.flag != SOME:", _UNFIT,
    ),
    (
        "a message has a known form", _SPARSE,
        "if message.flag != SOME or count > size:", "if count > size:", _UNFIT,
    ),
    (
        "a block of indices has a length before memory is taken", _ELIAS,
        "    if not _HEAD.size <= len(data) <= _HEAD.size + 2 * size // 8 + 1:\n",
        "    if len(data) < _HEAD.size:\n", _FORGED,
    ),
    (
        "a block of indices has the bits that it says", _ELIAS,
        "    if len(data) != _HEAD.size + -(-length // 8):\n", "    if False:\n", _FORGED,
    ),
    (
        "a block of indices ends with zeros", _ELIAS, "    if bits[length:].any():\n",
        "    if False:\n", _FORGED,
    ),
    (
        "a block of indices has whole codes", _ELIAS,
        "    if starts[-1] != end or (count and starts[-2] >= end):\n", "    if False:\n", _FORGED,
    ),
    (
        "indices are inside the model", _ELIAS,
        "    if first + int(gaps.sum()) >= size:\n", "    if False:\n", _FORGED,
    ),
    (
        "a gap does not overflow", _ELIAS,
        "    if 2 ** int(octaves.max(initial=0)) >= 2 * size:\n", "    if False:\n", _FORGED,
    ),
    (
        "no index is no byte", _ELIAS, "        if data:\n", "        if False:\n", _FORGED,
    ),
    (
        "packed signs have a length", _SIGN, "    if len(data) != sign_bytes(flat):\n",
        "    if False:\n", _T_SIGN,
    ),
    (
        "the scale of signs is a number", _SIGN,
        "if not (math.isfinite(scale) and math.copysign(1, scale) > 0):", "if False:", _T_SIGN,
    ),
    (
        "packed signs end with zeros", _SIGN, "        if bits[count:].any():\n",
        "        if False:\n", _T_SIGN,
    ),
    (
        "the seed of a sample has a length", _RANDOM,
        "    if len(message.indices) != _DRAW.size:\n", "    if not message.indices:\n", _T_RANDOM,
    ),
    (
        "the share of a sample is one", _RANDOM, "    if not 0 < share <= 1:\n", "    if False:\n",
        _T_RANDOM,
    ),
    (
        "a mask has a length", _MASKS, "    if len(data) != wanted:\n", "    if False:\n",
        f"{_T_MASKS}::test_a_mask_that_does_not_fit_is_refused",
    ),
    (
        "a mask ends with zeros", _MASKS, "    if bits[count:].any():\n", "    if False:\n",
        f"{_T_MASKS}::test_a_mask_that_does_not_fit_is_refused",
    ),
    # -- a message that cannot be used costs its sender ---------------------------------------
    (
        "a node goes on without a message that cannot be used", f"{_IN}/_node.py",
        "            except DataError as error:\n                self.refused",
        "            except ZeroDivisionError as error:\n                self.refused",
        f"{_T_REFUSED}::test_a_run_goes_on_as_if_the_sender_had_gone",
    ),
    (
        "nothing goes to who sent what cannot be used", f"{_IN}/_together.py",
        "            if receiver in inboxes and not apart:\n",
        "            if receiver in inboxes:\n",
        f"{_T_REFUSED}::test_nothing_goes_between_who_sent_it_and_who_refused_it",
    ),
    (
        "an estimate that missed a message is left out for good", f"{_IN}/_choco.py",
        "self.estimates.items() if j in heard}", "self.estimates.items() if j in inbox}",
        f"{_METHODS}/test_choco.py::test_who_sent_a_forged_message_is_left_out_for_good",
    ),
    (
        "who sends a node what cannot be used is lost", _EXCHANGE,
        "                    self.refuse(rank, what)\n", "                    pass\n",
        f"{_T_EXCHANGE}::test_who_sends_what_cannot_be_used_is_lost_and_the_others_go_on_without_it",
    ),
    (
        "a worker whose numbers cannot be used is lost", _STAR,
        "            return unpack_floats(message.values, count)\n        except DataError",
        "            return unpack_floats(message.values, count)\n        except ZeroDivisionError",
        f"{_T_STAR}::test_a_worker_whose_numbers_cannot_be_used_is_lost_and_missing_from_the_means",
    ),
    (
        "a client whose answer cannot be used is lost", _STAR,
        "                    server.check(number, data)\n", "",
        f"{_T_STAR}::test_a_client_whose_answer_cannot_be_used_is_lost_and_missing_from_the_mean",
    ),
    (
        "a server whose order cannot be used is named", _STAR,
        "                self._client.check(order)\n", "                pass\n",
        f"{_T_STAR}::test_a_middle_that_sends_what_cannot_be_used_is_named_and_ends_the_run",
    ),
    # -- training that diverges ---------------------------------------------------------------
    (
        "a gradient is finite", f"{_IN}/_local.py",
        "        if not bool(torch.isfinite(gradient).all()):\n", "        if False:\n",
        f"{_METHODS}/test_together.py",
    ),
    (
        "a gradient of a neighbour's model is finite before it is sent", _NGC,
        "            if not bool(torch.isfinite(cross).all()):\n", "            if False:\n",
        f"{_T_NGC}::test_a_gradient_that_is_not_finite_never_leaves_its_box",
    ),
    (
        "the weights of gradients still make a mean where one of them is left out", _NGC,
        "            own_weight, fewer = gradient_weights(self.seat.degree, left)\n",
        "            _, fewer = gradient_weights(self.seat.degree, left)\n",
        f"{_T_REFUSED}::test_a_model_whose_gradient_is_not_finite_costs_its_sender",
    ),
    (
        "a model is finite after a step, before others hear of it", f"{_IN}/_local.py",
        "        if not bool(torch.isfinite(vector).all()):\n", "        if False:\n",
        f"{_METHODS}/test_together.py",
    ),
    (
        "a worker's own gradient is finite before others hear of it", _STAR,
        "        if not bool(torch.isfinite(collective.tensor).all()):\n", "        if False:\n",
        f"{_T_STAR}::test_a_worker_whose_own_gradient_is_not_finite_says_so_itself",
    ),
    (
        "an own gradient is finite before it is compressed", _NGC,
        '        _must_be_finite(own, number, "the gradient of its own model")\n', "",
        f"{_T_NGC}::test_an_own_gradient_that_is_not_finite_is_in_no_error_memory",
    ),
    (
        "a gradient is of its step", _NGC, "        if found != wanted:\n", "        if False:\n",
        _T_NGC,
    ),
    # -- FedAvg and FedDIP --------------------------------------------------------------------
    (
        "an order has a rate that can be", _FEDWIRE,
        "    if not (0 < rate < math.inf and 0 <= penalty < math.inf and own_start < 1):\n",
        "    if False:\n", _ORDER,
    ),
    (
        "a mask is the one that was meant", _FEDWIRE,
        "        if (_digest(now), int(now.sum())) != (digest, count):\n", "        if False:\n",
        _ORDER,
    ),
    (
        "an answer is of its round and has images", _FEDWIRE,
        "    if message.round != number or message.indices or not images:\n", "    if False:\n",
        _ANSWER,
    ),
    (
        "the loss of an answer is finite", _FEDWIRE, "    if not math.isfinite(loss):\n",
        "    if False:\n", _ANSWER,
    ),
    (
        "an answer has the weights that were asked for", _FEDWIRE,
        "    if bool(message.flag & _SPARSE_UP) != (mask is not None):\n", "    if False:\n",
        _ANSWER,
    ),
    (
        "an answer has a head", _FEDWIRE,
        "    if message.kind not in kinds or len(message.values) < form.size:\n",
        "    if message.kind not in kinds:\n", _ANSWER,
    ),
    (
        "an answer is of a client that was asked", _SERVER,
        "if answer.client not in self._asked or answer.client in before:",
        "if answer.client in before:",
        f"{_T_WIRE}::test_a_client_that_was_not_asked_is_refused",
    ),
    (
        "a client answers once", _SERVER,
        "if answer.client not in self._asked or answer.client in before:",
        "if answer.client not in self._asked:",
        f"{_T_WIRE}::test_a_second_answer_of_a_client_is_refused",
    ),
    (
        "a node of Flower is a client that there is", _STRATEGY,
        "if not isinstance(index, int) or not 0 <= index < self.server.clients:",
        "if not isinstance(index, int):", f"{_T_FLOWER}::test_too_few_clients_are_told_of",
    ),
    (
        "a node of Flower says which client it is", _APPS,
        "    if not isinstance(index, int) or index < 0:\n", "    if False:\n",
        f"{_T_FLOWER}::test_a_node_that_does_not_say_who_it_is_is_refused",
    ),
]  # fmt: skip
