package agent

import "github.com/spf13/pflag"

// AddFlags lets a person, or a test that scales time, change t.
func (t *Timing) AddFlags(f *pflag.FlagSet) {
	f.DurationVar(&t.HeartbeatInterval, "heartbeat-interval", t.HeartbeatInterval, "between heartbeats, until a policy says otherwise")
	f.DurationVar(&t.RetryBase, "retry-base", t.RetryBase, "first backoff after a failure")
	f.DurationVar(&t.RetryMax, "retry-max", t.RetryMax, "longest backoff after a failure; never longer than the heartbeat interval")
	f.DurationVar(&t.RefusedRetry, "refused-retry", t.RefusedRetry, "until the server is asked again after a refusal that a person must lift (some wait a multiple of it)")
	t.Websocket.AddFlags(f)
}

// Valid tells whether the agent could live by t.
func (t *Timing) Valid() bool {
	websocket := t.websocket()
	return t.HeartbeatInterval > 0 && websocket.Valid() && t.RetryBase > 0 && t.RetryMax >= t.RetryBase && t.RefusedRetry > 0
}
