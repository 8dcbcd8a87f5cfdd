package flags

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestCheck(t *testing.T) {
	for args, want := range map[string]string{
		"":                                     "info false",
		"--log-level=debug --log-format=json":  "debug false",
		"--log-format=console":                 "info true",
		"--log-level=all":                      "--log-level is info or debug, --log-format json or console",
		"--log-format=text":                    "--log-level is info or debug, --log-format json or console",
		"--interval=0s --burst=-1 --rate=0 on": "--burst must be more than 0\n--interval must be more than 0\n--rate must be more than 0\nunexpected argument \"on\"",
	} {
		f := pflag.NewFlagSet("server", pflag.ContinueOnError)
		f.Duration("interval", time.Second, "")
		f.Int("burst", 1, "")
		f.Float64("rate", 0.5, "")
		f.String("name", "", "")
		l := &Log{}
		l.Add(f)
		if err := f.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(l.Level(), " ", l.Console())
		if err := errors.Join(Check(f, l)...); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}
