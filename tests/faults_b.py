"""faults_b: the Core broken in receiving, pools, seeds, quotas, order and errors (R, L, S, Q, G, E)."""

from __future__ import annotations

from faults import Fault

ACCOUNT, API, BUS = "bus1/core/account.py", "bus1/core/api.py", "bus1/core/bus.py"
DELIVERY, OBJECTS, POOL = "bus1/core/delivery.py", "bus1/core/objects.py", "bus1/core/pool.py"
QUEUE, TRANSACTION = "bus1/core/queue.py", "bus1/core/transaction.py"
ERRORS, MEMORY = "bus1/errors.py", "bus1/memory.py"

RECEIVING = [
    Fault(
        "recv takes an unknown flag", ("R-1",), DELIVERY,
        "flags & ~(PEEK | SEED | INSTALL_FDS)",
        "flags & ~(PEEK | SEED | INSTALL_FDS | 8)",
    ),
    Fault(
        "two flags of recv are exchanged", ("R-2",), API,
        "    PEEK = 1\n    SEED = 2\n",
        "    PEEK = 2\n    SEED = 1\n",
    ),
    Fault(
        "messages to a node that was let go stay queued", ("R-3",), OBJECTS,
        "            self.queue.remove(instance)\n            self.discard(instance)\n",
        "            self.discard(instance)\n",
    ),
    Fault(
        "a slice may not end at max_offset", ("R-4",), DELIVERY,
        "slice_.offset + slice_.size > max_offset",
        "slice_.offset + slice_.size >= max_offset",
    ),
    Fault(
        "max_offset counts from the slice", ("R-4",), DELIVERY,
        "slice_.offset + slice_.size > max_offset",
        "slice_.size > max_offset",
    ),
    Fault(
        "max_offset concerns the payload alone", ("R-4",), DELIVERY,
        "slice_.offset + slice_.size > max_offset",
        "slice_.offset + entry.n_bytes > max_offset",
    ),
    Fault(
        "a message out of range is delivered in part", ("R-5",), DELIVERY,
        "    if slice_.offset + slice_.size > max_offset:\n",
        "    peer.pool.publish(slice_)\n"
        "    if slice_.offset + slice_.size > max_offset:\n",
    ),
    Fault(
        "two types are exchanged", ("R-7",), API,
        "    NODE_DESTROY = 2\n    NODE_RELEASE = 3\n",
        "    NODE_DESTROY = 3\n    NODE_RELEASE = 2\n",
    ),
    Fault(
        "the destination is the receiver's first id", ("R-8",), DELIVERY,
        "HANDLE_INVALID if node is None else peer.ids.ids[node]",
        "HANDLE_INVALID if node is None else next(iter(peer.ids.handles))",
    ),
    Fault(
        "the length is told with its padding", ("R-9",), DELIVERY,
        "slice_.offset, entry.n_bytes, handles, fds,",
        "slice_.offset, entry.n_bytes + 7 & -8, handles, fds,",
    ),
    Fault(
        "PEEK takes a message without handles", ("R-10",), DELIVERY,
        "    if not flags & PEEK:\n        _take(",
        "    if not flags & PEEK or not handles:\n        _take(",
    ),
    Fault(
        "PEEK does not count as a use of the node", ("R-11",), DELIVERY,
        "            if is_valid:\n                node.rise()\n",
        "            pass\n",
    ),
    Fault(
        "PEEK charges dead entries", ("R-12",), DELIVERY,
        "peer.account.take(HANDLES, sum(valid))",
        "peer.account.take(HANDLES, len(valid))",
    ),
    Fault(
        "only the first PEEK is checked against the maximum", ("R-12",), DELIVERY,
        "    if flags & PEEK:\n        peer.account.take",
        "    if flags & PEEK and not instance.slice.published:\n        peer.account.take",
    ),
    Fault(
        "a peeked slice that is released is free", ("R-13", "L-9"), POOL,
        "        slice_.published = False\n"
        "        if not slice_.pinned:\n"
        "            self._free(slice_, unmapped)\n",
        "        slice_.published = False\n"
        "        self._free(slice_, unmapped)\n",
    ),
    Fault(
        "what was peeked is not published again", ("R-13",), POOL,
        "        del self.published[offset]\n"
        "        slice_.published = False\n"
        "        if not slice_.pinned:\n",
        "        del self.published[offset]\n"
        "        slice_.published = slice_.pinned\n"
        "        if not slice_.pinned:\n",
    ),
    Fault(
        "the handle array is written once", ("R-14",), DELIVERY,
        "    peer.pool.publish(slice_)\n    if not peer.pool.memory.shares_buffers:\n",
        "    written = slice_.published\n"
        "    peer.pool.publish(slice_)\n"
        "    if not peer.pool.memory.shares_buffers and not written:\n",
    ),
    Fault(
        "PEEK takes a NODE_RELEASE", ("R-15",), DELIVERY,
        "    if not flags & PEEK:\n        peer.queue.remove(notice)\n",
        "    if not flags & PEEK or notice.type is MessageType.NODE_RELEASE:\n"
        "        peer.queue.remove(notice)\n",
    ),
    Fault(
        "CONTINUE reaches into the next transaction", ("R-20",), DELIVERY,
        "following.stamp == entry.stamp",
        "following.stamp <= entry.stamp + 1",
    ),
    Fault(
        "CONTINUE is missing before the last", ("R-21",), QUEUE,
        "if len(self.entries) < 2:",
        "if len(self.entries) < 3:",
    ),
    Fault(
        "messages of one transaction have stamps of their own", ("R-22",), TRANSACTION,
        "            instance.stamp = stamp\n",
        "            instance.stamp = self._sender.sequencer.draw()\n",
    ),
    Fault(
        "room for descriptor numbers is not zero", ("R-30",), DELIVERY,
        "bytes(4 * n_fds + 7 & -8)",
        'b"\\xff" * (4 * n_fds + 7 & -8)',
    ),
    Fault(
        "descriptors come unasked", ("R-31",), DELIVERY,
        "if entry.fds is not None and flags & INSTALL_FDS else ()",
        "if entry.fds is not None else ()",
    ),
    Fault(
        "descriptors of a received message are kept", ("R-32",), DELIVERY,
        "    if instance.fds is not None:\n        instance.fds.drop()\n",
        "",
    ),
    Fault(
        "handles follow the payload at once", ("R-40",), DELIVERY,
        "    start = instance.n_bytes + 7 & -8\n",
        "    start = instance.n_bytes\n",
    ),
    Fault(
        "the label lies before the descriptors", ("R-41",), DELIVERY,
        'bytes(4 * n_fds + 7 & -8) + (instance.secctx or b"")',
        '(instance.secctx or b"") + bytes(4 * n_fds + 7 & -8)',
    ),
    Fault(
        "a slice has no room for descriptors", ("R-42",), TRANSACTION,
        "            size += self._fds_room\n",
        "            size += 0\n",
    ),
    Fault(
        "the room for a label is not rounded up", ("R-42",), TRANSACTION,
        "len(credentials.secctx) + 7 & -8",
        "len(credentials.secctx)",
    ),
    Fault(
        "the padding of a payload shows what was there", ("R-43",), POOL,
        "            if padding:\n",
        "            if not n_bytes:\n",
    ),
    Fault(
        "the unused end of a slice shows what was there", ("R-43",), DELIVERY,
        'tail.ljust(room, b"\\0")',
        "tail",
    ),
    Fault(
        "the label lies behind descriptors that are not told", ("R-44",), DELIVERY,
        "_write_tail(peer, entry, handles, len(fds))",
        "_write_tail(peer, entry, handles, 0 if entry.fds is None else len(entry.fds.numbers))",
    ),
    Fault(
        "dead entries are left out", ("R-45",), DELIVERY,
        "        ids.append(peer.hold(node) if is_valid else HANDLE_INVALID)\n",
        "        ids += [peer.hold(node)] if is_valid else []\n",
    ),
]

POOLS = [
    Fault(
        "segments are not sealed against writers", ("L-1", "L-5"), MEMORY,
        "seals = _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_GROW",
        "seals = fcntl.F_SEAL_GROW",
    ),
    Fault(
        "segments are written as if they began at 0", ("L-1",), MEMORY,
        "        at = offset - segment.base\n",
        "        at = offset\n",
    ),
    Fault(
        "the address space is 4 GiB", ("L-2",), POOL,
        "ADDRESS_SPACE = 0xFFFF_FFFF\n",
        "ADDRESS_SPACE = 1 << 32\n",
    ),
    Fault(
        "large slices begin one page further", ("L-2",), POOL,
        "            offset = segment.base\n",
        "            offset = segment.base + PAGE\n",
    ),
    Fault(
        "payloads are not padded", ("L-3",), TRANSACTION,
        "size = (n_bytes + 7 & -8) + 8 * len(nodes)",
        "size = n_bytes + 8 * len(nodes)",
    ),
    Fault(
        "a full pool is a message too large", ("L-3", "E-2"), POOL,
        'raise PoolFull(f"no gap of {size} bytes")',
        'raise TooLarge(f"no gap of {size} bytes")',
    ),
    Fault(
        "placement is first fit", ("L-4",), POOL,
        "            offset = self._gaps.take(size)\n            if offset < 0:\n",
        "            offset = self._gaps.take_lowest(size)\n            if offset < 0:\n",
    ),
    Fault(
        "the highest of equal gaps is taken", ("L-4",), POOL,
        "        room, start = self._sorted[i]\n",
        "        i = bisect_left(self._sorted, (self._sorted[i][0] + 1, 0)) - 1\n"
        "        room, start = self._sorted[i]\n",
    ),
    Fault(
        "gaps do not merge to the left", ("L-4",), POOL,
        "        if start in self.ends and start not in self._fences:\n",
        "        if start in self.ends and not start:\n",
    ),
    Fault(
        "gaps do not merge to the right", ("L-4",), POOL,
        "        if end in self.starts and end not in self._fences:\n",
        "        if end in self.starts and not end:\n",
    ),
    Fault(
        "gaps merge across segments", ("L-4",), POOL,
        "        if end in self.starts and end not in self._fences:\n",
        "        if end in self.starts:\n",
    ),
    Fault(
        "a slice goes with its message though it is published", ("L-7", "L-6"), POOL,
        "        slice_.pinned = False\n        if not slice_.published:\n",
        "        slice_.pinned = False\n        if self.published.pop(slice_.offset, slice_):\n",
    ),
    Fault(
        "any offset in the first word of a slice releases it", ("L-8",), POOL,
        "        slice_ = self.published.get(offset)\n",
        "        offset &= -8\n"
        "        slice_ = self.published.get(offset)\n",
    ),
    Fault(
        "a slice is released for another that lay at its offset before", ("L-8",), POOL,
        "        if serial not in (0, slice_.serial):\n",
        "        if serial > self.serial:\n",
    ),
    Fault(
        "all slices of a peer have the same serial", ("L-8",), POOL,
        "            self.serial += 1\n",
        "            self.serial = 1\n",
    ),
    Fault(
        "a slice can be released twice", ("L-8",), POOL,
        "        del self.published[offset]\n",
        "",
    ),
    Fault(
        "the slice of an undelivered message can be released", ("L-8",), TRANSACTION,
        "            reader.pool.fill(instance.slice, parts, instance.n_bytes)\n",
        "            reader.pool.fill(instance.slice, parts, instance.n_bytes)\n"
        "            reader.pool.publish(instance.slice)\n",
    ),
    Fault(
        "a released slice stays counted", ("L-10", "Q-16"), POOL,
        "        self.account.give(SLICES, 1)\n",
        "",
    ),
    Fault(
        "bytes return though the peer may map them", ("L-10",), POOL,
        "        if unmapped or not segment.exposed:\n",
        "        if unmapped or segment.exposed:\n",
    ),
    Fault(
        "a flush leaks published slices", ("L-11",), POOL,
        "            if not slice_.pinned:\n                self._free(slice_, self.memory.shares_buffers)\n",
        "",
    ),
    Fault(
        "a closed segment is emptied", ("L-12",), MEMORY,
        "        segment.mapping.close()\n        os.close(segment.fd)\n",
        "        segment.mapping[:] = bytes(segment.size)\n"
        "        segment.mapping.close()\n        os.close(segment.fd)\n",
    ),
    Fault(
        "payloads do not reach pools that are mapped", ("L-13",), TRANSACTION,
        "reader.pool.fill(instance.slice, parts, instance.n_bytes)",
        "reader.pool.fill(instance.slice, (), instance.n_bytes)",
    ),
]

SEEDS = [
    Fault(
        "the first seed stays", ("S-1", "S-2"), BUS,
        "        if seed is not None:\n            sender.discard_seed()\n",
        "        if seed is not None and sender.seed is None:\n            sender.discard_seed()\n",
    ),
    Fault(
        "a replaced seed leaks", ("S-2", "S-11"), BUS,
        "            sender.discard_seed()\n            sender.seed = seed\n",
        "            sender.seed = seed\n",
    ),
    Fault(
        "a seed may have optional destinations", ("S-2",), BUS,
        "(flags == SEED and (destinations or optional))",
        "(flags == SEED and destinations)",
    ),
    Fault(
        "the old seed goes before the new one is sure", ("S-3",), BUS,
        "                seed = transaction.stage_seed(parts, n_bytes, nodes)\n",
        "                sender.discard_seed()\n"
        "                seed = transaction.stage_seed(parts, n_bytes, nodes)\n",
    ),
    Fault(
        "the nodes of a seed die with it", ("S-4",), OBJECTS,
        "            self._settle(seed)\n",
        "            destroy([n for n in seed.nodes if n.owner is self], self.sequencer.draw())\n"
        "            self._settle(seed)\n",
    ),
    Fault(
        "a seed wakes its peer", ("S-5",), TRANSACTION,
        "            if instance.node is None:\n                for node",
        "            if instance.node is None:\n"
        "                reader.sequencer.woken[reader.number] = None\n"
        "                for node",
    ),
    Fault(
        "without a seed the queue is received", ("S-6",), DELIVERY,
        "entry = peer.seed if flags & SEED else peer.queue.front()",
        "entry = peer.seed if flags & SEED and peer.seed else peer.queue.front()",
    ),
    Fault(
        "a fetched seed stays", ("S-7",), DELIVERY,
        "        peer.seed = None\n",
        "        pass\n",
    ),
    Fault(
        "a seed may lie anywhere", ("S-8",), DELIVERY,
        "    if slice_.offset + slice_.size > max_offset:\n",
        "    if slice_.offset + slice_.size > max_offset and not flags & SEED:\n",
    ),
    Fault(
        "what the seed carries is not in use", ("S-9",), TRANSACTION,
        "                    if node.died == NEVER:\n                        node.rise()\n",
        "                    pass\n",
    ),
    Fault(
        "the seed's handles are judged when it is set", ("S-10",), DELIVERY,
        "        node.died == NEVER if seed\n",
        "        instance.stamp < node.died if seed\n",
    ),
    Fault(
        "a dropped seed keeps its references", ("S-11",), OBJECTS,
        "                if seed.stamp < node.died:\n                    node.fall()\n",
        "                pass\n",
    ),
    Fault(
        "a flush spares foreign handles of the seed", ("S-12", "S-14"), BUS,
        "frozenset(node for node in pinned if node.owner is found)",
        "frozenset(pinned)",
    ),
    Fault(
        "every flush drops the seed", ("S-13",), BUS,
        "        if flags & FLUSH_SEED:\n            found.discard_seed()\n",
        "        if flags:\n            found.discard_seed()\n",
    ),
    Fault(
        "the seed's slice counts as published after a flush", ("S-13",), POOL,
        "        for slice_ in published.values():\n            slice_.published = False\n",
        "        for slice_ in published.values():\n            slice_.published = slice_.pinned\n",
    ),
]

QUOTAS = [
    Fault(
        "messages are not charged to the user", ("Q-1",), ACCOUNT,
        "for counts in (account.used, user.used, self.user_share, self.peer_share):",
        "for counts in (account.used, self.user_share, self.peer_share):",
    ),
    Fault(
        "the user's maximum is not asked", ("Q-1",), ACCOUNT,
        "        if user.used[resource] + amount > user.limits[resource]:\n",
        "        if amount > user.limits[resource]:\n",
    ),
    Fault(
        "a default is one less", ("Q-2",), API,
        "    inflight_fds: int = 4096\n",
        "    inflight_fds: int = 4095\n",
    ),
    Fault(
        "configured maxima are forgotten", ("Q-2", "Q-3"), ACCOUNT,
        "User(uid, self.configured.get(uid, self.defaults))",
        "User(uid, self.defaults)",
    ),
    Fault(
        "a user outlives its last peer", ("Q-3",), ACCOUNT,
        "            del self.users[user.uid]\n",
        "",
    ),
    Fault(
        "the user quota is off by one", ("Q-4",), ACCOUNT,
        "return share + 2 * amount > left",
        "return share + 2 * amount >= left",
    ),
    Fault(
        "the user quota forgets the share", ("Q-4", "Q-20"), ACCOUNT,
        "return share + 2 * amount > left",
        "return 2 * amount > left",
    ),
    Fault(
        "handles are not admitted", ("Q-5",), ACCOUNT,
        "            flow.admit(HANDLES, handles)\n",
        "            pass\n",
    ),
    Fault(
        "descriptors are not admitted", ("Q-5", "Q-23"), ACCOUNT,
        "            flow.admit(FDS, fds)\n",
        "            pass\n",
    ),
    Fault(
        "one's own user is exempt", ("Q-5",), ACCOUNT,
        "        if exceeds_peer_quota(left, share, self.peer_share[resource], amount):\n",
        "        here = self.peer_share[resource]\n"
        "        if self.uid != user.uid and exceeds_peer_quota(left, share, here, amount):\n",
    ),
    Fault(
        "the share is counted by receiving peer", ("Q-5",), ACCOUNT,
        "        share = self.user_share[resource]\n",
        "        share = self.peer_share[resource]\n",
    ),
    Fault(
        "the peer quota takes the peer's share once", ("Q-6",), ACCOUNT,
        "return share + 2 * here + 4 * amount > left",
        "return share + here + 4 * amount > left",
    ),
    Fault(
        "the peer quota is off by one", ("Q-24",), ACCOUNT,
        "return share + 2 * here + 4 * amount > left",
        "return share + 2 * here + 4 * amount >= left",
    ),
    Fault(
        "a dequeued message stays in the peer's share", ("Q-8",), ACCOUNT,
        "        for counts in (self.user_share, self.peer_share):\n",
        "        for counts in (self.user_share,):\n",
    ),
    Fault(
        "bytes stay in the share", ("Q-8", "Q-22"), ACCOUNT,
        "            counts[BYTES] -= size\n",
        "            pass\n",
    ),
    Fault(
        "a maximum is no quota", ("Q-9",), ACCOUNT,
        'raise QuotaExceeded(f"{RESOURCES[resource]} of uid',
        'raise InternalError(f"{RESOURCES[resource]} of uid',
    ),
    Fault(
        "dead entries stay charged", ("Q-13",), DELIVERY,
        "len(handles) - handles.count(HANDLE_INVALID)",
        "len(handles)",
    ),
    Fault(
        "a slice that cannot be had stays charged", ("Q-14",), TRANSACTION,
        "        except BaseException:\n            charge.cancel()\n            raise\n",
        "        except BaseException:\n            raise\n",
    ),
    Fault(
        "a cancelled charge keeps its bytes", ("Q-14", "Q-17"), ACCOUNT,
        "        self.settle(0)\n"
        "        self.flow.account.give(SLICES, 1)\n"
        "        self.flow.account.give(BYTES, self.size)\n",
        "        self.settle(0)\n"
        "        self.flow.account.give(SLICES, 1)\n",
    ),
    Fault(
        "descriptors stay charged after dequeue", ("Q-16",), ACCOUNT,
        "            account.give(FDS, self.fds)\n",
        "            pass\n",
    ),
    Fault(
        "a refused charge leaves its flow", ("Q-17",), ACCOUNT,
        "            flow = Flow(self, sender, uid)\n",
        "            flow = self.flows[sender] = Flow(self, sender, uid)\n",
    ),
    Fault(
        "the shares of all users are one", ("Q-21",), ACCOUNT,
        "        share = self.user_share[resource]\n",
        "        share = sum(counts[resource] for counts in user.shares.values())\n",
    ),
    Fault(
        "bytes return at dequeue", ("Q-22",), ACCOUNT,
        "        if self.fds:\n            account.give(FDS, self.fds)\n",
        "        if self.fds:\n            account.give(FDS, self.fds)\n"
        "        account.give(BYTES, self.size)\n",
    ),
    Fault(
        "one of what is left is kept back", ("Q-23", "Q-25"), ACCOUNT,
        "        left = user.limits[resource] - user.used[resource]\n        share",
        "        left = user.limits[resource] - user.used[resource] - 1\n        share",
    ),
]

_APPEND = "        self.entries[entry] = None\n"

ORDER = [
    Fault(
        "the newest stands first", ("G-1", "G-33"), QUEUE, _APPEND,
        _APPEND + "        self.entries.move_to_end(entry, False)\n",
    ),
    Fault(
        "of one peer what is queued later stands first", ("G-2",), OBJECTS,
        "            peer.queue.append(notice)\n",
        "            peer.queue.append(notice)\n"
        "            peer.queue.entries.move_to_end(notice, False)\n",
    ),
    Fault(
        "the queue is sorted by sender", ("G-3", "G-6"), QUEUE, _APPEND,
        _APPEND + '        for other in sorted(self.entries, key=lambda e: -getattr(e, "sender", 0)):\n'
        "            self.entries.move_to_end(other)\n",
    ),
    Fault(
        "what a peer has sent before is overtaken by nobody", ("G-4",), QUEUE, _APPEND,
        _APPEND + '        for other in sorted(self.entries, key=lambda e: getattr(e, "sender", 0)):\n'
        "            self.entries.move_to_end(other)\n",
    ),
    Fault(
        "every other queue is the other way round", ("G-5",), QUEUE, _APPEND,
        _APPEND + "        self.entries.move_to_end(entry, bool(self._number % 2))\n",
    ),
    Fault(
        "NODE_RELEASE goes to the front", ("G-7",), OBJECTS,
        "            self.owner.queue.append(self.release)\n",
        "            self.owner.queue.append(self.release)\n"
        "            self.owner.queue.entries.move_to_end(self.release, False)\n",
    ),
    Fault(
        "nodes of one call die one after the other", ("G-8",), BUS,
        "        destroy(doomed.keys(), self._sequencer.draw())\n",
        "        for node in doomed:\n            destroy((node,), self._sequencer.draw())\n",
    ),
    Fault(
        "a handle is judged when it is received", ("G-9",), DELIVERY,
        "        else instance.stamp < node.died and (node.owner",
        "        else node.died == NEVER and (node.owner",
    ),
    Fault(
        "messages to a dead node are queued", ("G-9", "E-1"), TRANSACTION,
        '        if node.died != NEVER:\n            raise NodeDestroyed("the destination is destroyed")\n',
        "",
    ),
    Fault(
        "a transaction brings a peer one message", ("G-10",), TRANSACTION,
        "                reader.queue.append(instance)\n",
        "                if all(other.stamp != stamp for other in reader.queue.entries):\n"
        "                    reader.queue.append(instance)\n",
    ),
    Fault(
        "the newest event is not to be received yet", ("G-27", "G-34"), QUEUE,
        "        return next(iter(self.entries), None)\n",
        "        entry = next(iter(self.entries), None)\n"
        "        return None if entry is not None and entry.stamp == self._sequencer.stamp else entry\n",
    ),
]

FAILURES = [
    Fault(
        "ERANGE has another number", ("E-1",), ERRORS,
        "    errno = _e.ERANGE\n",
        "    errno = _e.EINVAL\n",
    ),
    Fault(
        "a node can be destroyed again", ("E-2",), BUS,
        '            if node.died != NEVER:\n                raise AlreadyDestroyed(f"node {number:#x}")\n',
        "",
    ),
    Fault(
        "a foreign node is unknown", ("E-2",), BUS,
        'raise ForeignNode(f"{number:#x} is not an own node")',
        'raise NoSuchHandle(f"{number:#x} is not an own node")',
    ),
    Fault(
        "a transfer that fails stays charged", ("E-3",), BUS,
        "                taker.account.give(HANDLES, 1)\n",
        "",
    ),
    Fault(
        "a destruction that fails has destroyed some", ("E-3",), BUS,
        "            doomed[node] = None\n",
        "            doomed[node] = None\n"
        "            node.withdraw_release()\n",
    ),
    Fault(
        "a failed send stays with its destinations", ("E-3",), TRANSACTION,
        "            if instance.node is not None:\n                del instance.node.addressed[instance]\n",
        "",
    ),
    Fault(
        "a failed send leaves its segments", ("E-3",), POOL,
        "        if segment.fresh and not segment.slices:\n",
        "        if segment.fresh and not segment.slices and not segment.shared:\n",
    ),
    Fault(
        "a failed send takes the descriptors", ("E-3",), TRANSACTION,
        "            instance.charge.cancel()\n",
        "            instance.charge.cancel()\n"
        "            if instance.fds is not None:\n"
        "                instance.fds.drop()\n",
    ),
    Fault(
        "new nodes are there before the send is sure", ("E-3",), TRANSACTION,
        "            self._sender.account.take(HANDLES, len(self.fresh))\n",
        "            for number, node in self.fresh.items():\n"
        "                self._sender.own(node, number)\n"
        "            self._sender.account.take(HANDLES, len(self.fresh))\n",
    ),
]

FAULTS = [*RECEIVING, *POOLS, *SEEDS, *QUOTAS, *ORDER, *FAILURES]
