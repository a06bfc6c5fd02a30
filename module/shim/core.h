/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The Rust core as the shim sees it. The other side is rust/src/abi.rs; both change together, with UNBUCKLE_ABI.
 *
 * Nothing here sleeps, allocates or takes a kernel lock. Whoever calls with an engine's number has that engine for
 * itself until the call returns, and has softirqs off: locks of the store are held by whoever is inside.
 */
#ifndef UNBUCKLE_CORE_H
#define UNBUCKLE_CORE_H

#include <linux/types.h>

#define UNBUCKLE_ABI 1

/* An IPv6 prefix; IPv4 in its mapped form. */
struct unbuckle_range {
	u8 address[16];
	u8 prefix_len;
};

#define UNBUCKLE_RANGES_MAX 16

/* What a core is made with. */
struct unbuckle_settings {
	u64 memory_bytes;	/* the region; a multiple of the page size */
	u64 item_bytes_max;
	u64 seed[2];		/* random: nobody may foresee where keys go */
	u64 made_unix_s;	/* unix time when the region's clock stood at 0 */
	u32 engines;
	u32 tcp_workers;
	u32 tcp_port;
	u32 udp_port;
	u32 connections_max;
	u32 requests_per_turn;
	u32 idle_timeout_s;
	u32 chunk_bytes_min;
	u32 growth_percent;
	u8 evict;
	u8 cas;
	u8 flush_enabled;
	u8 debug_time;
	u8 protocol;		/* enum unbuckle_protocol */
	/* Sources of datagrams that are served without a limit. */
	u8 udp_allowed_count;
	struct unbuckle_range udp_allowed[UNBUCKLE_RANGES_MAX];
};

/* What connections speak: what their first byte tells, or always the same. */
enum unbuckle_protocol {
	UNBUCKLE_NEGOTIATED,
	UNBUCKLE_TEXT,
	UNBUCKLE_BINARY,
};

/* What the shim counts. `connections` is a level, the others only grow. */
struct unbuckle_door_counts {
	u64 connections;
	u64 connections_total;
	u64 connections_rejected;
	u64 idle_kicks;
	u64 bytes_read;
	u64 bytes_written;
	u64 yields;
	u64 out_of_memory;
	u64 udp_hooked;
	u64 udp_from_socket;
	u64 udp_replies;
	u64 udp_dropped_malformed;
	u64 udp_dropped_checksum;
	u64 udp_dropped_rate;
	u64 udp_dropped_size;
	u64 udp_dropped_queue;
	u64 udp_dropped_unsent;
};

/* Why a turn has ended. */
enum unbuckle_next {
	UNBUCKLE_INPUT,		/* send, and wait for more input */
	UNBUCKLE_OUTPUT,	/* the output is full: send, and call again */
	UNBUCKLE_YIELD,		/* send, let others have their turn, and call again */
	UNBUCKLE_CLOSE,		/* send, and close */
};

/* One connection's turn. Time is in seconds since the region was made, counted from 2. */
struct unbuckle_turn {
	const u8 *input;
	size_t input_len;
	u8 *output;
	size_t output_room;	/* at least UNBUCKLE_OUTPUT_BYTES_MIN */
	size_t output_filled;	/* in: what is there already; out: with what was added */
	size_t consumed;	/* out: of the input */
	u32 next;		/* out: enum unbuckle_next */
	u32 now_s;
};

/* What became of a datagram. */
enum unbuckle_answered {
	UNBUCKLE_SERVED,
	UNBUCKLE_MALFORMED,
	UNBUCKLE_TOO_LONG,
	UNBUCKLE_TOO_OFTEN,
};

/* Room that lets every turn make progress, the longest administrative reply included. */
#define UNBUCKLE_OUTPUT_BYTES_MIN (64u << 10)
/* Unconsumed input that a connection must be able to hold. */
#define UNBUCKLE_INPUT_BYTES_MIN (64u << 10)
#define UNBUCKLE_SESSION_BYTES 1024
#define UNBUCKLE_FRAME_BYTES 8

struct unbuckle_core;

/* One connection's protocol state. */
struct unbuckle_session {
	u8 bytes[UNBUCKLE_SESSION_BYTES] __aligned(16);
};

u32 unbuckle_core_abi(void);
/* How long the block for the tables beside the region has to be. */
size_t unbuckle_core_bytes(const struct unbuckle_settings *settings);
/*
 * Makes a core in two pieces of zeroed, page-aligned memory. NULL: the settings are impossible. To give a core up is to
 * free its memory, once nobody is inside and every session has ended.
 */
struct unbuckle_core *unbuckle_core_make(const struct unbuckle_settings *settings, void *region, void *block,
					 size_t block_bytes);
void unbuckle_session_begin(struct unbuckle_session *session);
/* Gives back what the session holds of the store. */
void unbuckle_session_end(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session);
void unbuckle_turn(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session,
		   struct unbuckle_turn *turn);
/* The last `count` bytes of the output could not be sent: how many of them the core will make again by itself. */
size_t unbuckle_unsend(struct unbuckle_core *core, u32 engine, struct unbuckle_session *session, size_t count);
/*
 * Serves a datagram from the address in `source` (16 bytes, IPv4 mapped); calls unbuckle_shim_reply for each datagram of
 * the replies. enum unbuckle_answered.
 */
u32 unbuckle_datagram(struct unbuckle_core *core, u32 engine, const u8 *datagram, size_t len, const u8 *source,
		      u32 now_s, void *context);
/* One bounded step of background work; true if there is more. */
bool unbuckle_maintain(struct unbuckle_core *core, u32 engine, u32 now_s);
/* Counters as text, into `out`; how long it is, or 0 if it does not fit. */
size_t unbuckle_report(struct unbuckle_core *core, u32 now_s, u8 *out, size_t room);

/* What the core calls. */
void unbuckle_shim_reply(void *context, const u8 *frame, const u8 *payload, size_t len);
void unbuckle_shim_counts(struct unbuckle_door_counts *counts);

#endif
