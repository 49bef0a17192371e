// Takes CloudEvents over HTTP as the CloudEvents project's Go SDK understands them, and says what it understood.
//
// stdout: {"port": ...} first, then one line per event that the SDK took, or per request that it refused. POST: 202, or 400
// where the SDK refuses. OPTIONS: 204, which is what the uplink's probe asks.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

const bodyMax = 16 << 20

type line struct {
	Mode       string            `json:"mode,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Data       []byte            `json:"data,omitempty"` // as base64
	Refused    string            `json:"refused,omitempty"`
}

type receiver struct {
	mu  sync.Mutex
	out *json.Encoder
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r := &receiver{out: json.NewEncoder(os.Stdout)}
	_ = r.out.Encode(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	server := &http.Server{Handler: r, ReadTimeout: time.Minute}
	fmt.Fprintln(os.Stderr, server.Serve(listener))
	os.Exit(1)
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	events, mode, err := understand(request)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		_ = r.out.Encode(line{Refused: err.Error()})
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// Said before it is answered: what is acknowledged is on the line.
	for _, e := range events {
		_ = r.out.Encode(line{Mode: mode, Attributes: attributes(e), Data: e.Data()})
	}
	w.WriteHeader(http.StatusAccepted)
}

// understand is the SDK's judgement; only the compression is ours.
func understand(request *http.Request) ([]event.Event, string, error) {
	var reader io.Reader = io.LimitReader(request.Body, bodyMax)
	if request.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(reader)
		if err != nil {
			return nil, "", err
		}
		reader = io.LimitReader(unpacked, bodyMax)
	}
	body, err := io.ReadAll(reader)
	if err != nil {
		return nil, "", err
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	request.Header.Del("Content-Encoding")
	message := cehttp.NewMessageFromHttpRequest(request)
	switch encoding := message.ReadEncoding(); encoding {
	case binding.EncodingBatch:
		events, err := cehttp.NewEventsFromHTTPRequest(request)
		if err != nil {
			return nil, "", err
		}
		for i, e := range events {
			if err := e.Validate(); err != nil {
				return nil, "", fmt.Errorf("event %d: %w", i, err)
			}
		}
		return events, "batch", nil
	case binding.EncodingUnknown:
		return nil, "", binding.ErrUnknownEncoding
	default:
		e, err := binding.ToEvent(context.Background(), message)
		if err == nil {
			err = e.Validate()
		}
		if err != nil {
			return nil, "", err
		}
		return []event.Event{*e}, encoding.String(), nil
	}
}

func attributes(e event.Event) map[string]string {
	all := map[string]string{"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type()}
	for name, value := range map[string]string{
		"subject": e.Subject(), "datacontenttype": e.DataContentType(), "dataschema": e.DataSchema(),
	} {
		if value != "" {
			all[name] = value
		}
	}
	if !e.Time().IsZero() {
		all["time"] = e.Time().Format(time.RFC3339Nano)
	}
	for name, value := range e.Extensions() {
		all[name] = fmt.Sprint(value)
	}
	return all
}
