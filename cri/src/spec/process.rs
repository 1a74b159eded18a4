//! The process of a container: what an image says, overridden by what the pod says, by Kubernetes' rules.

use std::collections::HashMap;

use oci_spec::image::Config as ImageConfig;
use proto::cri::{ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use runtime::plan::{Id, User};

use crate::Error;

/// `PATH` of a container whose image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program and arguments. `command` replaces the image's entrypoint and drops its arguments; `args` replace those.
pub(crate) fn args(config: &ContainerConfig, image: Option<&ImageConfig>) -> Result<Vec<String>, Error> {
    let of_image = |list: fn(&ImageConfig) -> &Option<Vec<String>>| {
        image.and_then(|image| list(image).as_deref()).unwrap_or_default()
    };
    let (program, rest) = match (config.command.as_slice(), config.args.as_slice()) {
        ([], []) => (of_image(ImageConfig::entrypoint), of_image(ImageConfig::cmd)),
        ([], args) => (of_image(ImageConfig::entrypoint), args),
        (command, args) => (command, args),
    };
    let args: Vec<String> = program.iter().chain(rest).cloned().collect();
    if args.is_empty() {
        return Err(Error::invalid(
            "config.command",
            "no command specified, neither by the pod nor by the image",
        ));
    }
    without_nul("config.command", &args)?;
    Ok(args)
}

/// Environment in order: the default `PATH`, the host name, the image's, `TERM` of a terminal, the pod's; a later
/// value of a name takes the place of an earlier one.
pub(crate) fn environment(
    config: &ContainerConfig,
    image: Option<&ImageConfig>,
    hostname: &str,
) -> Result<Vec<String>, Error> {
    let of_image = image.and_then(|image| image.env().as_deref()).unwrap_or_default();
    let mut env = Environment::with_capacity(3 + of_image.len() + config.envs.len());
    env.set(DEFAULT_PATH.to_owned());
    if !hostname.is_empty() {
        env.set(format!("HOSTNAME={hostname}"));
    }
    for entry in of_image {
        env.set(entry.clone());
    }
    if config.tty {
        env.set("TERM=xterm".to_owned());
    }
    for entry in &config.envs {
        if entry.key.is_empty() || entry.key.contains('=') {
            return Err(Error::invalid(
                "config.envs",
                format!("{:?} is not a variable's name", entry.key),
            ));
        }
        let value = std::str::from_utf8(&entry.value)
            .map_err(|_| Error::invalid("config.envs", format!("value of {} is not UTF-8", entry.key)))?;
        env.set(format!("{}={value}", entry.key));
    }
    without_nul("config.envs", &env.entries)?;
    Ok(env.entries)
}

/// Variables in order of their first mention.
struct Environment {
    entries: Vec<String>,
    places: HashMap<String, usize>,
}

impl Environment {
    fn with_capacity(n: usize) -> Self {
        Self {
            entries: Vec::with_capacity(n),
            places: HashMap::with_capacity(n),
        }
    }

    fn set(&mut self, entry: String) {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        match self.places.get(name) {
            Some(&place) => self.entries[place] = entry,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }
}

/// Working directory, absolute.
pub(crate) fn working_dir(config: &ContainerConfig, image: Option<&ImageConfig>) -> Result<String, Error> {
    let of_image = image
        .and_then(|image| image.working_dir().as_deref())
        .unwrap_or_default();
    let dir = [config.working_dir.as_str(), of_image, "/"]
        .into_iter()
        .find(|dir| !dir.is_empty());
    let dir = dir.expect("the last of the list is not empty").to_owned();
    without_nul("config.working_dir", std::slice::from_ref(&dir))?;
    // An image may name a relative directory; it means one below the root.
    Ok(if dir.starts_with('/') {
        dir
    } else {
        format!("/{dir}")
    })
}

/// Who the container runs as: the pod's word, else the image's, else root.
pub(crate) fn user(
    security: Option<&LinuxContainerSecurityContext>,
    image: Option<&ImageConfig>,
) -> Result<User, Error> {
    let none = LinuxContainerSecurityContext::default();
    let security = security.unwrap_or(&none);
    let group = security
        .run_as_group
        .map(|group| number("run_as_group", group.value))
        .transpose()?;
    let (uid, gid) = if let Some(user) = security.run_as_user {
        (
            Id::Number(number("run_as_user", user.value)?),
            group.map(Id::Number),
        )
    } else if !security.run_as_username.is_empty() {
        (
            id("run_as_username", &security.run_as_username)?,
            group.map(Id::Number),
        )
    } else if group.is_some() {
        return Err(Error::invalid(
            "run_as_group",
            "a group without a user: set run_as_user as well",
        ));
    } else {
        image_user(
            image
                .and_then(|image| image.user().as_deref())
                .unwrap_or_default(),
        )?
    };
    let additional_gids = security
        .supplemental_groups
        .iter()
        .map(|&group| number("supplemental_groups", group))
        .collect::<Result<_, _>>()?;
    let image_groups = security.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge;
    Ok(User {
        uid,
        gid,
        additional_gids,
        image_groups,
    })
}

/// An image's `USER`: `user`, `user:group`, each a number or a name; empty is root.
fn image_user(user: &str) -> Result<(Id, Option<Id>), Error> {
    const FIELD: &str = "image user";
    if user.is_empty() {
        return Ok((Id::Number(0), None));
    }
    match user.split_once(':') {
        None => Ok((id(FIELD, user)?, None)),
        Some((user, group)) => Ok((id(FIELD, user)?, Some(id(FIELD, group)?))),
    }
}

/// A user or group by number or name: all digits is a number or an error, never a name (CVE-2024-40635 and kin).
fn id(field: &'static str, text: &str) -> Result<Id, Error> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(number) if number != u32::MAX => Ok(Id::Number(number)),
            _ => Err(Error::invalid(
                field,
                format!("{text} is over the largest id, {}", u32::MAX - 1),
            )),
        };
    }
    let name = |byte: u8| byte.is_ascii_graphic() && byte != b':' && byte != b'/';
    // A sign in front would make other parsers see a number; no user is named so.
    if text.is_empty() || text.len() > 256 || text.starts_with(['-', '+']) || !text.bytes().all(name) {
        return Err(Error::invalid(
            field,
            format!("{text:?} is neither an id nor a name"),
        ));
    }
    Ok(Id::Name(text.to_owned()))
}

fn number(field: &'static str, value: i64) -> Result<u32, Error> {
    match u32::try_from(value) {
        Ok(number) if number != u32::MAX => Ok(number),
        _ => Err(Error::invalid(
            field,
            format!("{value} is not an id between 0 and {}", u32::MAX - 1),
        )),
    }
}

fn without_nul(field: &'static str, texts: &[String]) -> Result<(), Error> {
    match texts.iter().find(|text| text.contains('\0')) {
        Some(_) => Err(Error::invalid(field, "holds a NUL byte")),
        None => Ok(()),
    }
}
