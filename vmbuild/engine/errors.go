package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// StepError says which step of which build failed.
type StepError struct {
	// Engine is the name of the engine it failed on.
	Engine string
	// Jobs are the IDs of all jobs that need the step, first the one that
	// reported it.
	Jobs []string
	// Vertex is the step's digest in client.SolveStatus.
	Vertex digest.Digest
	// Step is the step's name as progress shows it.
	Step string
	// ExitCode is the exit code of the step's process, 0 if the step failed
	// in another way.
	ExitCode int
	// Log is the end of the step's output, at most 16 kB.
	Log string
	// Err is what BuildKit said.
	Err error
}

// Error names job, step and exit code on one line, without the log.
func (e *StepError) Error() string {
	jobs := "build " + e.Jobs[0]
	if n := len(e.Jobs) - 1; n > 0 {
		jobs += fmt.Sprintf(" (and %d more that need this step)", n)
	}
	if e.ExitCode != 0 {
		return fmt.Sprintf("%s: step %q failed with exit code %d", jobs, e.Step, e.ExitCode)
	}
	return fmt.Sprintf("%s: step %q failed: %v", jobs, e.Step, rootMessage(e.Err))
}

func (e *StepError) Unwrap() error { return e.Err }

// rootMessage drops the wrapping that BuildKit adds on the way, whose words
// help nobody.
func rootMessage(err error) string {
	text := err.Error()
	for _, prefix := range []string{"failed to solve: ", "failed to run Build function: ", "failed to solve: ", "failed to compute cache key: ", "failed to load cache key: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	if _, plain, ok := strings.Cut(text, "Unavailable desc = "); ok {
		return plain
	}
	_, plain, ok := strings.Cut(text, "Unavailable: ")
	if ok {
		return plain
	}
	return text
}

const maxLog = 16 << 10

// tracker listens to a build's progress for what its error will want to say.
type tracker struct {
	names  map[digest.Digest]string
	logs   map[digest.Digest][]byte
	failed []digest.Digest
}

func newTracker() *tracker {
	return &tracker{names: map[digest.Digest]string{}, logs: map[digest.Digest][]byte{}}
}

func (t *tracker) add(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		t.names[v.Digest] = v.Name
		// Steps stopped because another failed report an error too.
		if v.Error != "" && !strings.Contains(v.Error, "context canceled") {
			t.failed = append(t.failed, v.Digest)
		}
	}
	for _, l := range s.Logs {
		log := append(t.logs[l.Vertex], l.Data...)
		if len(log) > maxLog {
			log = log[len(log)-maxLog:]
		}
		t.logs[l.Vertex] = log
	}
}

// explain turns the error of a build into one that names the step.
func (t *tracker) explain(ctx context.Context, engine, job string, lost bool, logHint string, jobs []Job, defs []*pb.Definition, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("build stopped: %w", context.Cause(ctx))
	}
	if lost {
		return &plainError{fmt.Sprintf("engine %s stopped answering during the build: %s%s: start the same command again, finished steps are kept; `mage doctor` shows which engines answer",
			engine, rootMessage(err), logHint), ErrLost}
	}
	step := &StepError{Engine: engine, Jobs: []string{job}, Err: err}
	if v := (*errdefs.VertexError)(nil); errors.As(err, &v) {
		step.Vertex = digest.Digest(v.Digest)
	}
	if t.names[step.Vertex] == "" && len(t.failed) > 0 {
		step.Vertex = t.failed[0]
	}
	step.Step = t.names[step.Vertex]
	if step.Step == "" || job == "" {
		return &plainError{fmt.Sprintf("engine %s: %s", engine, rootMessage(err)), err}
	}
	step.Log = string(t.logs[step.Vertex])
	for i, j := range jobs {
		if j.ID != job && hasVertex(defs[i], step.Vertex) {
			step.Jobs = append(step.Jobs, j.ID)
		}
	}
	if e := (*gatewayapi.ExitError)(nil); errors.As(err, &e) {
		step.ExitCode = int(e.ExitCode)
	} else if i := strings.LastIndex(err.Error(), "exit code: "); i >= 0 {
		// Docker before 23 does not send the typed error.
		fmt.Sscanf(err.Error()[i:], "exit code: %d", &step.ExitCode)
	}
	return step
}

func hasVertex(def *pb.Definition, v digest.Digest) bool {
	for _, op := range def.Def {
		if digest.FromBytes(op) == v {
			return true
		}
	}
	return false
}

// plainError says what err is in other words.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// ErrLost is wrapped by the error of a build whose engine went away.
var ErrLost = errors.New("engine lost")
