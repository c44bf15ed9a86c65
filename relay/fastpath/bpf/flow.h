/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the program shares with user space: relay/fastpath/abi.py is the other side, and tests hold the
 * two against each other.
 */
#ifndef VPNMASQ_FLOW_H
#define VPNMASQ_FLOW_H

#include <linux/types.h>

/* None is zero, so that no key is: a free line's is. */
enum side {
	SIDE_LAN = 1,
	SIDE_WAN = 2,
};

/* How a flow's packets are recognised and what is rewritten in them. */
enum kind {
	KIND_GRE = 1, /* PPTP: addresses and Call ID (RFC 2637 4.1) */
	KIND_ESP = 2, /* addresses; the SPI is covered by the ends' integrity check (RFC 4303 2) */
	KIND_NATT = 3, /* ESP in UDP: addresses and ports; IKE and keepalives are not for us (RFC 3948) */
	KIND_UDP = 4, /* addresses and ports */
	KIND_IP = 5, /* any protocol that is forwarded whole: addresses */
};

/* What a flow's packets carry when they arrive. */
struct flow_key {
	__be32 source;
	__be32 target;
	__be32 label; /* Call ID in the last 16 bits; SPI; both ports as they lie in the packet; 0 if whole */
	__u8 protocol;
	__u8 side; /* enum side */
	__u8 whole; /* 1: of KIND_IP, whose packets have no label that says anything */
	__u8 zero;
};

/* The same, as it is written (stack.h) and compared. */
union key {
	struct flow_key fields;
	__u64 words[2];
};
_Static_assert(sizeof(union key) == sizeof(struct flow_key) && sizeof(union key) == 16, "union key");

/*
 * A flow: what its packets carry, what they leave with, and what they amount to. It has a cache line to itself,
 * for with many flows reading that is most of what a packet costs. User space writes all of it but the counters,
 * the second word of the key last, and reads the counters where they are (mmap).
 */
struct flow {
	union key key;
	__be32 source;
	__be32 target;
	__be32 label;
	__u16 hop; /* index into hops */
	__u16 kind; /* enum kind */
	__u64 packets;
	__u64 octets; /* of whole IP packets */
	__u64 last_seen; /* CLOCK_MONOTONIC, nanoseconds, as exact as a timer tick */
	__u32 sequence; /* of the last ESP packet */
	__u32 reach; /* not of this flow: how far behind this line those are whose home it is */
};
_Static_assert(sizeof(struct flow) == 64, "struct flow");

/* The farthest. */
#define MOST_REACH 127

/* What holds for all flows. */
struct control {
	/*
	 * Until when the flows hold (CLOCK_MONOTONIC, nanoseconds): attached by clsact a program outlives user space,
	 * and must not go on by what nobody looks after any more.
	 */
	__u64 until;
	__u64 seed[2]; /* of the hash: who does not know them cannot choose what collides */
	__u64 homes; /* lines that a search may begin at */
	__u64 pptp; /* whether rules are for it: then nothing of its kind of GRE is forwarded whole */
};
_Static_assert(sizeof(struct control) == 40, "struct control");

/* How packets get to the next hop. */
enum means {
	MEANS_NEIGHBOUR = 0, /* the kernel looks for its neighbour each time, and asks for it if it must */
	MEANS_HEADER = 1, /* by an Ethernet header that is ready, while the kernel is sure of the neighbour */
	MEANS_PEER = 2, /* likewise, and at once into the other end of a veth, in another namespace */
	MEANS_DRIVER = 3, /* by the header, also from driver to driver: nothing stands between that would see it */
};

/* A way out. Interface 0: there is none at the moment, and packets are user space's. */
struct hop {
	__u32 interface;
	__be32 gateway; /* 0: the packet's destination is a neighbour itself */
	__u32 mtu;
	__u32 means; /* enum means */
	__be32 header[3]; /* of Ethernet: target and source */
};
_Static_assert(sizeof(struct hop) == 28, "struct hop");

#define MOST_HOPS 1024

/* What an interface's driver takes frames for: its address of Ethernet. */
struct station {
	__be32 first;
	__be16 last;
	__be16 zero;
};
_Static_assert(sizeof(struct station) == 8, "struct station");

#define MOST_STATIONS 256

#endif
