"""faults_a: the Core broken in peers, nodes and handles, notifications, and sending (P, H, N, T)."""

from __future__ import annotations

from faults import Fault

FAULTS = [
    # ---- peers ---------------------------------------------------------------------------------------------
    Fault(
        "numbers of peers come back", ("P-5",), "bus1/core/bus.py",
        "        number = self._numbers + 1\n",
        "        number = len(self._peers) + 1\n",
    ),
    Fault(
        "a second disconnect succeeds", ("P-12",), "bus1/core/bus.py",
        "        gone = self._peer(peer)\n",
        "        if peer not in self._peers:\n"
        "            return\n"
        "        gone = self._peer(peer)\n",
    ),
    Fault(
        "disconnect leaves the peer in the table", ("P-10", "P-13"), "bus1/core/bus.py",
        "        del self._peers[peer]\n",
        "",
    ),
    Fault(
        "disconnect keeps the seed", ("P-15",), "bus1/core/bus.py",
        "        gone.discard_seed()\n",
        "",
    ),
    Fault(
        "query returns the user's maxima", ("P-20", "P-32"), "bus1/core/bus.py",
        "Limits(*found.account.limits)",
        "Limits(*found.account.user.limits)",
    ),
    Fault(
        "query forgets the peer flags", ("P-21",), "bus1/core/bus.py",
        "PeerState(found.flags, ",
        "PeerState(0, ",
    ),
    Fault(
        "reset takes a flag that does not exist", ("P-30",), "bus1/core/bus.py",
        "flags & ~(FLUSH | FLUSH_SEED)",
        "flags & ~(FLUSH | FLUSH_SEED | 4)",
    ),
    Fault(
        "FLUSH_SEED alone does nothing", ("P-30",), "bus1/core/bus.py",
        "        if flags & FLUSH_SEED:\n"
        "            found.discard_seed()\n",
        "        if flags == FLUSH | FLUSH_SEED:\n"
        "            found.discard_seed()\n",
    ),
    Fault(
        "any small peer flags are taken", ("P-31",), "bus1/core/bus.py",
        "peer_flags not in (KEEP, 0, PeerFlag.WANT_SECCTX)",
        "peer_flags not in (KEEP, *range(8))",
    ),
    Fault(
        "peer flags are not kept", ("P-31",), "bus1/core/bus.py",
        "        if peer_flags != KEEP:\n",
        "        if peer_flags:\n",
    ),
    Fault(
        "a maximum may be 2^31", ("P-32",), "bus1/core/bus.py",
        "0 <= limit <= LIMIT_MAX for",
        "0 <= limit <= LIMIT_MAX + 1 for",
    ),
    Fault(
        "a maximum of 0 means keep", ("P-32", "P-33"), "bus1/core/bus.py",
        "old if new == KEEP else new",
        "old if new in (0, KEEP) else new",
    ),
    Fault(
        "peer flags are set before maxima are checked", ("P-33",), "bus1/core/bus.py",
        "        maxima = (max_slices, max_handles, max_inflight_bytes, max_inflight_fds)\n",
        "        maxima = (max_slices, max_handles, max_inflight_bytes, max_inflight_fds)\n"
        "        if peer_flags != KEEP:\n"
        "            found.flags = int(peer_flags)\n",
    ),
    Fault(
        "two maxima are mixed up", ("P-20", "P-32"), "bus1/core/bus.py",
        "        maxima = (max_slices, max_handles, max_inflight_bytes, max_inflight_fds)\n",
        "        maxima = (max_handles, max_slices, max_inflight_bytes, max_inflight_fds)\n",
    ),
    Fault(
        "a flush keeps published slices", ("P-15", "P-34"), "bus1/core/objects.py",
        "        self.pool.unpublish()\n",
        "",
    ),
    Fault(
        "a flush starts ids over", ("P-36", "H-12"), "bus1/core/objects.py",
        "        self.pool.unpublish()\n",
        "        self.pool.unpublish()\n"
        "        self.ids.counter = 0\n",
    ),
    Fault(
        "a flush destroys node by node", ("P-17", "P-35"), "bus1/core/objects.py",
        "        destroy([node for node in own if node not in protected], self.sequencer.draw())\n",
        "        for node in own:\n"
        "            if node not in protected:\n"
        "                destroy([node], self.sequencer.draw())\n",
    ),
    Fault(
        "a flush releases handles before it destroys", ("P-17", "P-35"), "bus1/core/objects.py",
        "        destroy([node for node in own if node not in protected], self.sequencer.draw())\n",
        "        for handle in handles:\n"
        "            if handle.node.owner is not self:\n"
        "                self.release(handle, handle.references)\n"
        "        handles = [handle for handle in handles if handle.references]\n"
        "        destroy([node for node in own if node not in protected], self.sequencer.draw())\n",
    ),
    Fault(
        "a flush destroys the seed's nodes", ("P-37",), "bus1/core/objects.py",
        "[node for node in own if node not in protected]",
        "own",
    ),
    Fault(
        "FLUSH_SEED spares the seed's nodes", ("P-37",), "bus1/core/bus.py",
        "() if flags & FLUSH_SEED or found.seed is None else",
        "() if found.seed is None else",
    ),
    Fault(
        "a flush spares references to the seed's nodes", ("P-37",), "bus1/core/objects.py",
        "            if handle.references > kept:\n",
        "            if not kept:\n",
    ),
    Fault(
        "a flush forgets what messages carry", ("P-14", "P-34"), "bus1/core/objects.py",
        "        for entry in entries:\n"
        "            if isinstance(entry, Instance):\n"
        "                self.discard(entry)\n",
        "        for entry in entries:\n"
        "            if isinstance(entry, Instance):\n"
        "                self._settle(entry)\n",
    ),
    Fault(
        "a message is told as readable again and again", ("P-43",), "bus1/core/queue.py",
        "        if not self.entries:\n"
        "            self._sequencer.woken[self._number] = None\n",
        "        self._sequencer.woken[self._number] = None\n",
    ),
    Fault(
        "a wake-up outlives what caused it", ("P-43",), "bus1/core/queue.py",
        "        del self.entries[entry]\n"
        "        if not self.entries:\n"
        "            self._sequencer.woken.pop(self._number, None)\n",
        "        del self.entries[entry]\n",
    ),
    Fault(
        "labels go to everybody", ("P-52",), "bus1/core/transaction.py",
        "self._credentials.secctx if reader.flags & WANT_SECCTX else None",
        "self._credentials.secctx",
    ),
    Fault(
        "an empty label is none", ("P-53",), "bus1/core/delivery.py",
        "    if secctx is not None:\n",
        "    if secctx:\n",
    ),
    # ---- nodes and handles ---------------------------------------------------------------------------------
    Fault(
        "a second acquisition is a second handle", ("H-2",), "bus1/core/objects.py",
        "        handle = node.holders.get(self)\n"
        "        if handle is None:\n",
        "        handle = node.holders.get(self)\n"
        "        if handle is None or node.owner is not self:\n",
    ),
    Fault(
        "a second acquisition is not counted", ("H-2", "H-31", "H-54"), "bus1/core/objects.py",
        "        handle.references += 1\n",
        "",
    ),
    Fault(
        "ids count by four", ("H-11", "H-14"), "bus1/core/ids.py",
        "self.counter << 3 | REMOTE",
        "self.counter << 2 | REMOTE",
    ),
    Fault(
        "ids are not marked as remote", ("H-10", "H-14"), "bus1/core/ids.py",
        "self.counter << 3 | REMOTE | MANAGED",
        "self.counter << 3 | MANAGED",
    ),
    Fault(
        "the first id is 3", ("H-11",), "bus1/core/ids.py",
        "        self.counter += 1\n"
        "        number = self.counter << 3 | REMOTE | MANAGED\n",
        "        number = self.counter << 3 | REMOTE | MANAGED\n"
        "        self.counter += 1\n",
    ),
    Fault(
        "an id comes back when its handle is the latest", ("H-12",), "bus1/core/ids.py",
        "        del self.handles[self.ids.pop(node)]\n",
        "        number = self.ids.pop(node)\n"
        "        del self.handles[number]\n"
        "        if number == self.counter << 3 | REMOTE | MANAGED:\n"
        "            self.counter -= 1\n",
    ),
    Fault(
        "nodes may have the bit REMOTE", ("H-13", "H-21"), "bus1/core/ids.py",
        "not number & (MANAGED | REMOTE)",
        "not number & MANAGED",
    ),
    Fault(
        "0 names no node", ("H-13",), "bus1/core/ids.py",
        "0 <= number < HANDLE_INVALID",
        "0 < number < HANDLE_INVALID",
    ),
    Fault(
        "an id outlives its handle", ("H-15", "H-32"), "bus1/core/ids.py",
        "        del self.handles[self.ids.pop(node)]\n",
        "        self.ids.pop(node)\n",
    ),
    Fault(
        "a node that a transfer makes is not charged", ("H-24", "H-52"), "bus1/core/bus.py",
        "                giver.account.take(HANDLES, 1)\n",
        "                giver.account.take(HANDLES, 0)\n",
    ),
    Fault(
        "nodes that a send makes are not charged", ("H-22", "H-24"), "bus1/core/transaction.py",
        "        if self.fresh:\n"
        "            self._sender.account.take(HANDLES, len(self.fresh))\n",
        "",
    ),
    Fault(
        "nodes that a destruction makes are not charged", ("H-22", "H-62"), "bus1/core/bus.py",
        "        owner.account.take(HANDLES, len(fresh))\n",
        "",
    ),
    Fault(
        "a release returns no charge", ("H-42",), "bus1/core/objects.py",
        "        self.account.give(HANDLES, references)\n",
        "",
    ),
    Fault(
        "the pinned reference can be released", ("H-34", "H-43"), "bus1/core/bus.py",
        "node.owner is holder and node.died == NEVER and found.references == 1",
        "node.owner is holder and node.died == NEVER and found.references < 1",
    ),
    Fault(
        "two references of an owner are pinned", ("H-34", "N-15"), "bus1/core/bus.py",
        "and found.references == 1",
        "and found.references <= 2",
    ),
    Fault(
        "the last reference to a dead node stays", ("H-45",), "bus1/core/bus.py",
        "node.owner is holder and node.died == NEVER and found.references == 1",
        "node.owner is holder and found.references == 1",
    ),
    Fault(
        "an unused id is unknown to release", ("H-44",), "bus1/core/bus.py",
        '                raise Busy(f"{handle:#x} would be an own live node")\n',
        '                raise NoSuchHandle(f"no handle {handle:#x}")\n',
    ),
    Fault(
        "a transfer refuses dead nodes", ("H-56",), "bus1/core/bus.py",
        "        if node.died != NEVER:\n"
        "            return HANDLE_INVALID\n",
        "        if node.died != NEVER:\n"
        '            raise NodeDestroyed("dead")\n',
    ),
    Fault(
        "a transfer hands dead nodes out", ("H-56", "H-68"), "bus1/core/bus.py",
        "        if node.died != NEVER:\n"
        "            return HANDLE_INVALID\n",
        "",
    ),
    Fault(
        "a transfer costs the destination nothing", ("H-57",), "bus1/core/bus.py",
        "        taker.account.take(HANDLES, 1)\n",
        "        taker.account.take(HANDLES, 1 if fresh else 0)\n",
    ),
    Fault(
        "a user's maximum does not bind transfers", ("H-57",), "bus1/core/account.py",
        "        if user.used[resource] + amount > user.limits[resource]:\n",
        "        if user.used[resource] > user.limits[resource]:\n",
    ),
    Fault(
        "a failed transfer keeps its charge", ("H-52",), "bus1/core/bus.py",
        "                taker.account.give(HANDLES, 1)\n",
        "",
    ),
    Fault(
        "the source pays first", ("H-52",), "bus1/core/bus.py",
        "        taker.account.take(HANDLES, 1)\n"
        "        if fresh:\n"
        "            try:\n"
        "                giver.account.take(HANDLES, 1)\n"
        "            except BaseException:\n"
        "                taker.account.give(HANDLES, 1)\n"
        "                raise\n",
        "        giver.account.take(HANDLES, len(fresh))\n"
        "        try:\n"
        "            taker.account.take(HANDLES, 1)\n"
        "        except QuotaExceeded:\n"
        "            giver.account.give(HANDLES, len(fresh))\n"
        "            raise\n"
        "        if fresh:\n",
    ),
    Fault(
        "a transfer is no reference", ("H-58", "N-10"), "bus1/core/bus.py",
        "        node.rise()\n"
        "        return taker.hold(node)\n",
        "        return taker.hold(node)\n",
    ),
    Fault(
        "a destruction takes any flags", ("H-60",), "bus1/core/bus.py",
        "flags & ~RELEASE_HANDLES",
        "flags & ~0xFFFF_FFFF",
    ),
    Fault(
        "the length of a set is not looked at", ("H-61",), "bus1/core/bus.py",
        "len(nodes) > owner.account.user.limits[HANDLES]",
        "len(nodes) > 1 << 20",
    ),
    Fault(
        "the same node twice is destroyed once", ("H-61",), "bus1/core/bus.py",
        '                raise NotUnique(f"node {number:#x} twice")\n',
        "                continue\n",
    ),
    Fault(
        "a dead node can be destroyed again", ("H-61", "H-68"), "bus1/core/bus.py",
        '                raise AlreadyDestroyed(f"node {number:#x}")\n',
        "                continue\n",
    ),
    Fault(
        "whoever holds a node may destroy it", ("H-61",), "bus1/core/bus.py",
        "            if node.owner is not owner:\n",
        "            if owner not in node.holders and number not in fresh:\n",
    ),
    Fault(
        "a set dies node by node", ("H-64",), "bus1/core/bus.py",
        "        destroy(doomed.keys(), self._sequencer.draw())\n",
        "        for node in doomed:\n"
        "            destroy([node], self._sequencer.draw())\n",
    ),
    Fault(
        "RELEASE_HANDLES releases nothing", ("H-66",), "bus1/core/bus.py",
        "                owner.release(node.holders[owner])\n",
        "                pass\n",
    ),
    Fault(
        "messages to a released node stay after RELEASE_HANDLES", ("H-33", "H-66"), "bus1/core/bus.py",
        "            owner.forsake([node for node in doomed if owner not in node.holders])\n",
        "",
    ),
    Fault(
        "messages to a released node stay", ("H-33", "N-30"), "bus1/core/bus.py",
        "            holder.forsake((node,))\n",
        "            pass\n",
    ),
    # ---- notifications -------------------------------------------------------------------------------------
    Fault(
        "the owner is not told of a death", ("N-1",), "bus1/core/objects.py",
        "(*self.holders, *(peer for",
        "(*(holder for holder in self.holders if holder is not self.owner), *(peer for",
    ),
    Fault(
        "only the owner is told of a death", ("N-1", "H-65"), "bus1/core/objects.py",
        "(*self.holders, *(peer for peer in self.carriers if peer not in self.holders))",
        "(self.owner,)",
    ),
    Fault(
        "notifications come from uid 0", ("N-2",), "bus1/core/delivery.py",
        "NOBODY = 0xFFFF_FFFF\n",
        "NOBODY = 0\n",
    ),
    Fault(
        "a notification has offset 0", ("N-2",), "bus1/core/delivery.py",
        "NOBODY, NOBODY, 0, 0, OFFSET_INVALID, 0,",
        "NOBODY, NOBODY, 0, 0, 0, 0,",
    ),
    Fault(
        "who has released is told nevertheless", ("N-3",), "bus1/core/objects.py",
        "            if node.died != NEVER:\n"
        "                node.withdraw_notice(self)\n"
        "        node.fall(references)\n",
        "        node.fall(references)\n",
    ),
    Fault(
        "receivers of undelivered messages are not told", ("N-4",), "bus1/core/objects.py",
        "(*self.holders, *(peer for peer in self.carriers if peer not in self.holders))",
        "(*self.holders,)",
    ),
    Fault(
        "a discarded message leaves the notification", ("N-4",), "bus1/core/objects.py",
        "                if node.died != NEVER:\n"
        "                    node.withdraw_notice(self)\n"
        "        self._settle(instance)\n",
        "        self._settle(instance)\n",
    ),
    Fault(
        "a notification goes although a message will bring the handle", ("N-4",), "bus1/core/objects.py",
        "peer not in self.holders and (peer is self.owner or peer not in self.carriers)",
        "peer not in self.holders",
    ),
    Fault(
        "a carried handle is dead as soon as the node is", ("N-4", "W-6"), "bus1/core/delivery.py",
        "else instance.stamp < node.died and",
        "else node.died == NEVER and",
    ),
    Fault(
        "holders that also await a message are told twice", ("N-6",), "bus1/core/objects.py",
        "*(peer for peer in self.carriers if peer not in self.holders))",
        "*self.carriers)",
    ),
    Fault(
        "a death is put in front", ("N-5",), "bus1/core/objects.py",
        "            peer.queue.append(notice)\n",
        "            peer.queue.append(notice)\n"
        "            peer.queue.entries.move_to_end(notice, last=False)\n",
    ),
    Fault(
        "release is told when nobody is left at all", ("N-10", "N-15"), "bus1/core/objects.py",
        "if self.uses == 1 and self.died == NEVER",
        "if self.uses == 0 and self.died == NEVER",
    ),
    Fault(
        "release is told when two are left", ("N-10",), "bus1/core/objects.py",
        "if self.uses == 1 and self.died == NEVER",
        "if self.uses == 2 and self.died == NEVER",
    ),
    Fault(
        "what a message carries does not count", ("N-11", "N-12"), "bus1/core/objects.py",
        '        """A message to ``receiver`` carries this live node."""\n'
        "        self.rise()\n",
        '        """A message to ``receiver`` carries this live node."""\n',
    ),
    Fault(
        "what the seed carries does not count", ("N-11", "N-12"), "bus1/core/transaction.py",
        "                    if node.died == NEVER:\n"
        "                        node.rise()\n",
        "                    pass\n",
    ),
    Fault(
        "a pending release is not withdrawn", ("N-12", "H-58"), "bus1/core/objects.py",
        "        self.uses += 1\n"
        "        self.withdraw_release()\n",
        "        self.uses += 1\n",
    ),
    Fault(
        "a received release counts as pending", ("N-12",), "bus1/core/delivery.py",
        "            node.release = None\n",
        "            pass\n",
    ),
    Fault(
        "a second release takes the place of the first", ("N-13",), "bus1/core/objects.py",
        "            self.owner.queue.append(self.release)\n",
        "            self.owner.queue.append(self.release)\n"
        "            self.owner.queue.entries.move_to_end(self.release, last=False)\n",
    ),
    Fault(
        "what is discarded in flight is not let go", ("N-14", "W-5"), "bus1/core/objects.py",
        "                node.arrive(self)\n"
        "                node.fall()\n",
        "                node.arrive(self)\n",
    ),
    Fault(
        "dead nodes are released too", ("N-16",), "bus1/core/objects.py",
        "if self.uses == 1 and self.died == NEVER",
        "if self.uses == 1",
    ),
    Fault(
        "a destruction leaves a pending release", ("N-16", "H-68"), "bus1/core/objects.py",
        "        node.withdraw_release()\n"
        "        node.died = stamp\n",
        "        node.died = stamp\n",
    ),
    Fault(
        "a message to a node keeps it in use", ("N-17",), "bus1/core/transaction.py",
        "        node.addressed[instance] = None\n",
        "        node.addressed[instance] = None\n"
        "        node.uses += 1\n",
    ),
    Fault(
        "a handle to an own node that was let go comes back", ("N-30",), "bus1/core/delivery.py",
        " and (node.owner is not peer or peer in node.holders)\n",
        "\n",
    ),
    Fault(
        "the death of a node that was let go is told", ("N-30",), "bus1/core/objects.py",
        "(peer is self.owner or peer not in self.carriers)",
        "peer not in self.carriers",
    ),
    # ---- sending -------------------------------------------------------------------------------------------
    Fault(
        "each destination has a stamp of its own", ("T-1", "T-56"), "bus1/core/transaction.py",
        "            instance.stamp = stamp\n",
        "            instance.stamp = stamp = self._sender.sequencer.draw()\n",
    ),
    Fault(
        "destinations are counted before parts", ("T-2",), "bus1/core/bus.py",
        "        check_counts(parts, fds)\n"
        "        mandatory = len(destinations)\n"
        "        if mandatory + len(optional) > sender.account.user.limits[HANDLES]:\n"
        '            raise InvalidArgument(f"{mandatory + len(optional)} destinations")\n',
        "        mandatory = len(destinations)\n"
        "        if mandatory + len(optional) > sender.account.user.limits[HANDLES]:\n"
        '            raise InvalidArgument(f"{mandatory + len(optional)} destinations")\n'
        "        check_counts(parts, fds)\n",
    ),
    Fault(
        "CONTINUE goes with SEED", ("T-3", "T-4"), "bus1/core/bus.py",
        "flags not in (0, CONTINUE, SEED)",
        "flags not in (0, CONTINUE, SEED, CONTINUE | SEED)",
    ),
    Fault(
        "optional destinations go with a seed", ("T-4",), "bus1/core/bus.py",
        "(destinations or optional)",
        "destinations",
    ),
    Fault(
        "the peer's maximum bounds destinations", ("T-7",), "bus1/core/bus.py",
        "> sender.account.user.limits[HANDLES]",
        "> sender.account.limits[HANDLES]",
    ),
    Fault(
        "1024 parts are too many", ("T-10", "T-11"), "bus1/core/transaction.py",
        "len(parts) > VEC_MAX",
        "len(parts) >= VEC_MAX",
    ),
    Fault(
        "the largest payload is too large", ("T-11",), "bus1/core/transaction.py",
        "size > PAYLOAD_MAX",
        "size >= PAYLOAD_MAX",
    ),
    Fault(
        "2 GiB are not too large", ("T-11",), "bus1/core/transaction.py",
        "PAYLOAD_MAX = 0x7FFF_F000",
        "PAYLOAD_MAX = 0x8000_0000",
    ),
    Fault(
        "256 descriptors are too many", ("T-31",), "bus1/core/transaction.py",
        "len(fds) > FD_MAX",
        "len(fds) >= FD_MAX",
    ),
    Fault(
        "a descriptor takes eight bytes", ("T-33",), "bus1/core/transaction.py",
        "4 * len(fds) + 7 & -8",
        "8 * len(fds) + 7 & -8",
    ),
    Fault(
        "room for descriptors is not rounded", ("T-33",), "bus1/core/transaction.py",
        "4 * len(fds) + 7 & -8",
        "4 * len(fds)",
    ),
    Fault(
        "a new id listed twice is two nodes", ("T-22", "T-23"), "bus1/core/transaction.py",
        "    node = fresh.get(number)\n",
        "    node = None\n",
    ),
    Fault(
        "handles arrive in reverse", ("T-25",), "bus1/core/delivery.py",
        "    return tuple(ids)\n",
        "    return tuple(reversed(ids))\n",
    ),
    Fault(
        "entries of dead nodes are missing", ("T-26",), "bus1/core/delivery.py",
        "    return tuple(ids)\n",
        "    return tuple(number for number in ids if number != HANDLE_INVALID)\n",
    ),
    Fault(
        "a dead handle is delivered like a live one", ("T-26", "N-7"), "bus1/core/delivery.py",
        "else instance.stamp < node.died and",
        "else instance.stamp and",
    ),
    Fault(
        "sending to a dead node succeeds", ("T-40", "H-65"), "bus1/core/transaction.py",
        "        if node.died != NEVER:\n"
        '            raise NodeDestroyed("the destination is destroyed")\n',
        "",
    ),
    Fault(
        "the same destination twice gets two messages", ("T-42",), "bus1/core/bus.py",
        '                        raise NotUnique(f"destination {number:#x} twice")\n',
        "                        pass\n",
    ),
    Fault(
        "two destinations of one peer are not unique", ("T-44",), "bus1/core/bus.py",
        "                    if node in seen:\n",
        "                    if node in seen or any(node.owner is other.owner for other in seen):\n",
    ),
    Fault(
        "every message is followed by another", ("T-44",), "bus1/core/delivery.py",
        "following is not None and following.stamp == entry.stamp",
        "following is not None",
    ),
    Fault(
        "the receiver's own user is exempt from quotas", ("T-45",), "bus1/core/account.py",
        "        if exceeds_peer_quota(left, share, self.peer_share[resource], amount):\n",
        "        if self.uid != user.uid and exceeds_peer_quota(left, share, "
        "self.peer_share[resource], amount):\n",
    ),
    Fault(
        "a slice that finds no room keeps its charge", ("T-46", "T-55"), "bus1/core/transaction.py",
        "            charge.cancel()\n"
        "            raise\n",
        "            raise\n",
    ),
    Fault(
        "undone slices stay allocated", ("T-46", "T-50"), "bus1/core/transaction.py",
        "            reader.pool.cancel(instance.slice)\n",
        "",
    ),
    Fault(
        "undone charges stay", ("T-46", "T-50"), "bus1/core/transaction.py",
        "            instance.charge.cancel()\n",
        "",
    ),
    Fault(
        "a failed send delivers what it could", ("T-50", "T-1"), "bus1/core/bus.py",
        "        except BaseException:\n"
        "            transaction.cancel()\n"
        "            raise\n"
        "        return transaction, seed, slots\n",
        "        except BaseException:\n"
        "            transaction.commit()\n"
        "            raise\n"
        "        return transaction, seed, slots\n",
    ),
    Fault(
        "CONTINUE tolerates unknown destinations", ("T-51",), "bus1/core/bus.py",
        "tolerated = REMOTE_ERRORS if flags == CONTINUE else ()",
        "tolerated = OPTIONAL_ERRORS if flags == CONTINUE else ()",
    ),
    Fault(
        "remote errors are tolerated without CONTINUE", ("T-50",), "bus1/core/bus.py",
        "tolerated = REMOTE_ERRORS if flags == CONTINUE else ()",
        "tolerated = REMOTE_ERRORS",
    ),
    Fault(
        "slots are positive", ("T-53",), "bus1/core/bus.py",
        "                except tolerated as error:\n"
        "                    slots.append(-error.errno)\n",
        "                except tolerated as error:\n"
        "                    slots.append(error.errno)\n",
    ),
    Fault(
        "a full pool fails the call", ("T-55",), "bus1/core/bus.py",
        "(NodeDestroyed, QuotaExceeded, PoolFull, TooLarge, OutOfMemory)",
        "(NodeDestroyed, QuotaExceeded, TooLarge, OutOfMemory)",
    ),
    Fault(
        "descriptors that nobody got are lost", ("T-6", "T-54"), "bus1/core/transaction.py",
        "        if self._descriptors is not None and not self._descriptors.carriers:\n"
        "            self._descriptors.drop()\n",
        "",
    ),
]
