// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * For the debug build alone (UNBUCKLE_DEBUG=y): where a panic of the Rust core ends, and bugs on request. A detector that
 * says nothing is believed only if it has something to say about these:
 *
 *   echo NAME > /sys/module/unbuckle/parameters/plant
 *
 * The core is what errs, because it is lied to about the memory that it gets.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include "shim.h"

/* The allocator rounds these up: what is beyond them is nobody's, and must not be touched all the same. */
#define SHORT_BYTES 40
#define TOLD_BYTES 56
#define SHORT_REPLY_BYTES 5
#define LEAKS 8

void unbuckle_debug_panic(const char *file, size_t len, u32 line);

void unbuckle_debug_panic(const char *file, size_t len, u32 line)
{
	panic("unbuckle: the core has panicked at %.*s:%u\n", (int)len, file, line);
}

static void serve(const char *text, size_t text_allocated, size_t text_told, size_t reply_allocated)
{
	struct unbuckle_session *session = kzalloc(sizeof(*session), GFP_KERNEL);
	u8 *output = kmalloc(reply_allocated, GFP_KERNEL), *input = kmalloc(text_allocated, GFP_KERNEL);
	struct unbuckle_turn turn = {
		.input = input,
		.input_len = text_told,
		.output = output,
		.output_room = UNBUCKLE_OUTPUT_BYTES_MIN,
		.now_s = ub_now_s(),
	};

	if (session && output && input) {
		struct ub_engine *engine = ub_engine_take(0);

		memset(input, 'a', text_allocated);
		memcpy(input, text, strlen(text));
		unbuckle_session_begin(session);
		unbuckle_turn(ub_core, engine->number, session, &turn);
		unbuckle_session_end(ub_core, engine->number, session);
		ub_engine_give(engine);
	}
	kfree(input);
	kfree(output);
	kfree(session);
}

/* A reply, "ERROR", in less memory than it needs. */
static void write_beyond(void)
{
	serve("a\r\n", SHORT_BYTES, 3, SHORT_REPLY_BYTES);
}

/* A line whose end is looked for behind its memory. */
static void read_beyond(void)
{
	serve("", SHORT_BYTES, TOLD_BYTES, UNBUCKLE_OUTPUT_BYTES_MIN);
}

/* A report that is longer than its memory, which is of the store's kind. */
static void write_beyond_pages(void)
{
	void *room = vmalloc(SHORT_BYTES);

	if (room)
		unbuckle_report(ub_core, ub_now_s(), room, PAGE_SIZE);
	vfree(room);
}

/* A session that has been given back. */
static void use_freed(void)
{
	struct unbuckle_session *session = kzalloc(sizeof(*session), GFP_KERNEL);
	struct ub_engine *engine;

	if (!session)
		return;
	unbuckle_session_begin(session);
	kfree(session);
	engine = ub_engine_take(0);
	unbuckle_session_end(ub_core, engine->number, session);
	ub_engine_give(engine);
}

/* An allocation that may wait, where nobody may. */
static void sleep_locked(void)
{
	struct ub_engine *engine = ub_engine_take(0);

	kfree(kmalloc(SHORT_BYTES, GFP_KERNEL));
	ub_engine_give(engine);
}

/* Memory that nobody remembers; zeroed, since what is left of a free list in it would be taken for references. */
static void leak(void)
{
	int left;

	for (left = LEAKS; left > 0; left--)
		(void)!kzalloc(SHORT_BYTES, GFP_KERNEL);
}

/* A timer that is freed while it runs. */
static void free_armed(void)
{
	struct delayed_work *work = kzalloc(sizeof(*work), GFP_KERNEL);

	if (!work)
		return;
	INIT_DELAYED_WORK(work, NULL);
	queue_delayed_work(system_wq, work, 600 * HZ);
	kfree(work);
}

/* Two locks, in one order and in the other. */
static void invert(void)
{
	static DEFINE_MUTEX(left);
	static DEFINE_MUTEX(right);

	mutex_lock(&left);
	mutex_lock(&right);
	mutex_unlock(&right);
	mutex_unlock(&left);
	mutex_lock(&right);
	mutex_lock(&left);
	mutex_unlock(&left);
	mutex_unlock(&right);
}

static const struct {
	const char *name;
	void (*plant)(void);
} plants[] = {
	{ "write-beyond", write_beyond },
	{ "read-beyond", read_beyond },
	{ "write-beyond-pages", write_beyond_pages },
	{ "use-freed", use_freed },
	{ "sleep-locked", sleep_locked },
	{ "leak", leak },
	{ "free-armed", free_armed },
	{ "invert", invert },
};

static int plant(const char *name, const struct kernel_param *unused)
{
	size_t at;

	for (at = 0; at < ARRAY_SIZE(plants); at++) {
		if (sysfs_streq(name, plants[at].name)) {
			plants[at].plant();
			return 0;
		}
	}
	return -EINVAL;
}

static const struct kernel_param_ops plant_ops = { .set = plant };
module_param_cb(plant, &plant_ops, NULL, 0200);
MODULE_PARM_DESC(plant, "for tests of the debug build: commits a bug of this name");
