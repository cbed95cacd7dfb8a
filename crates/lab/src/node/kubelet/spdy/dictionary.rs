//! The dictionary of SPDY/3's header compression (draft 3.1, section 2.6.10.1).
//!
//! It is a fixed text of 1423 bytes: words, each after its length, and then common values.

use std::sync::LazyLock;

/// The words, between commas. The order is the protocol's.
const WORDS: &str = "\
    options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,\
    accept-language,accept-ranges,age,allow,authorization,cache-control,connection,\
    content-base,content-encoding,content-language,content-length,content-location,\
    content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,\
    if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,\
    max-forwards,pragma,proxy-authenticate,proxy-authorization,range,referer,retry-after,\
    server,te,trailer,transfer-encoding,upgrade,user-agent,vary,via,warning,\
    www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,\
    keep-alive,origin";

/// What follows the words, without lengths.
const VALUES: &str = "\
    1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045\
    05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request40\
    1 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 \
    Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, W\
    ed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/x\
    ml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sd\
    chcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The whole dictionary.
pub(crate) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for word in WORDS.split(',') {
        // The longest word has 19 letters.
        all.extend([0, 0, 0]);
        all.extend(u8::try_from(word.len()));
        all.extend(word.as_bytes());
    }
    all.extend(VALUES.as_bytes());
    all
});
