#include "config.h"
#include "gather.h"

#include "check.h"

static void
come_back(struct loop_task *task)
{
	struct gather *gather = container_of(task, struct gather_leg, task)->gather;

	if (--gather->pending == 0)
		gather->done(gather);
}

static void
run_leg(struct loop_task *task)
{
	struct gather_leg *leg = container_of(task, struct gather_leg, task);
	struct loop *loop = loop_current();

	leg->gather->visit(leg->gather, loop, loop_index(loop));
	leg->task.run = come_back;
	loop_post(loop_main(), &leg->task);
}

void
gather_start(struct gather *gather)
{
	CHECK(gather->pending == 0);
	gather->pending = loop_count();
	for (unsigned i = 0; i < loop_count(); i++) {
		gather->legs[i].gather = gather;
		gather->legs[i].task.run = run_leg;
		loop_post(loop_by_index(i), &gather->legs[i].task);
	}
}
