package status

import (
	"strings"
	"testing"
	"time"
)

func TestContentLines(t *testing.T) {
	since := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	in := Content{Version: "1041", Since: &since}
	with := func(change func(*Content)) Content {
		c := in
		change(&c)
		return c
	}
	const inUse = "Content          version 1041, in use since 2026-11-24 12:00:00Z\n"
	for want, c := range map[string]Content{
		"Content          none yet\n": {},
		inUse:                         with(func(c *Content) { c.Phase = Current }),
		inUse + "                 1042 is downloaded: 34 % of 98 KiB\n": with(func(c *Content) {
			c.Phase, c.Offered, c.Downloaded, c.Size = Downloading, "1042", 34_000, 100_000
		}),
		inUse + "                 1042 is downloaded: 0 % of 98 KiB; next attempt in 5s\n": with(func(c *Content) {
			c.Phase, c.Offered, c.Size, c.RetryInSeconds = Downloading, "1042", 100_000, new(int64(5))
		}),
		inUse + "                 1042 not applied: the downloaded file's digest differs from the signed offer; next\n                 attempt in 1m\n": with(func(c *Content) {
			c.Phase, c.Offered, c.Message, c.RetryInSeconds = Failed, "1042", "the downloaded file's digest differs from the signed offer", new(int64(60))
		}),
		inUse + "                 1042 waits: the policy pins content to version 1041\n": with(func(c *Content) {
			c.Phase, c.Offered, c.Message = Deferred, "1042", "the policy pins content to version 1041"
		}),
		inUse + "                 version 1042 on this machine's disk is damaged\n": with(func(c *Content) {
			c.Phase, c.Message = Failed, "version 1042 on this machine's disk is damaged"
		}),
	} {
		var b strings.Builder
		l := &lines{w: &b}
		if c.write(l); b.String() != want || l.err != nil {
			t.Errorf("%s\nwant\n%s", b.String(), want)
		}
	}
}
