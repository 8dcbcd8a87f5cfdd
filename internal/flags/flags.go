// Package flags is what the command lines of manager and gateway have in common.
package flags

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"
)

// Log is what a server logs, and how.
type Log struct{ level, format string }

// Add adds --log-level and --log-format.
func (l *Log) Add(f *pflag.FlagSet) {
	f.StringVar(&l.level, "log-level", "info", "info or debug")
	f.StringVar(&l.format, "log-format", "json", "json or console")
}

// Level of what is logged.
func (l *Log) Level() zapcore.Level {
	if l.level == "debug" {
		return zapcore.DebugLevel
	}
	return zapcore.InfoLevel
}

// Console tells that people read the log as it comes, and not a program its JSON.
func (l *Log) Console() bool { return l.format == "console" }

// Check tells all that is wrong with a command line that was parsed: each number and duration must be more than 0, and nothing be left over.
func Check(f *pflag.FlagSet, l *Log) (wrong []error) {
	f.VisitAll(func(flag *pflag.Flag) {
		d, notDuration := f.GetDuration(flag.Name)
		n, notInt := f.GetInt(flag.Name)
		x, notFloat := f.GetFloat64(flag.Name)
		if notDuration == nil && d <= 0 || notInt == nil && n <= 0 || notFloat == nil && x <= 0 {
			wrong = append(wrong, fmt.Errorf("--%s must be more than 0", flag.Name))
		}
	})
	if f.NArg() > 0 {
		wrong = append(wrong, fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	if l.level != "info" && l.level != "debug" || l.format != "json" && l.format != "console" {
		wrong = append(wrong, errors.New("--log-level is info or debug, --log-format json or console"))
	}
	return wrong
}
