package status

import (
	"fmt"
	"time"
)

// write adds the lines of the content.
func (c Content) write(l *lines) {
	use := "none yet"
	if c.Version != "" {
		use = "version " + c.Version
		if c.Since != nil {
			use += ", in use since " + c.Since.UTC().Format(time.DateTime+"Z")
		}
	}
	l.add("Content", "%s", use)
	if what := c.offered(); what != "" {
		l.prose("", what)
	}
}

// offered is what becomes of an offer, empty where there is nothing to say.
func (c Content) offered() string {
	switch c.Phase {
	case Downloading:
		return c.Offered + " is downloaded: " + c.progress() + c.retry()
	case Failed:
		if c.Offered == "" {
			return c.Message + c.retry()
		}
		return c.Offered + " not applied: " + c.Message + c.retry()
	case Deferred:
		return c.Offered + " waits: " + c.Message
	default:
		return ""
	}
}

func (c Content) progress() string {
	if c.Size <= 0 {
		return "not begun"
	}
	return fmt.Sprintf("%d %% of %d KiB", min(c.Downloaded, c.Size)*100/c.Size, (c.Size+1023)/1024)
}

func (c Content) retry() string {
	if c.RetryInSeconds == nil {
		return ""
	}
	return "; next attempt in " + span(*c.RetryInSeconds)
}
