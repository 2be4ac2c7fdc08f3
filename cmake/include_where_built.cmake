# include_where_built(TARGET): the folders whose headers TARGET names to whoever links it count where it is built, and are not
# exported. CMake refuses to export those inside of the source folder. A target that names none stays as it is.
function(include_where_built target)
  get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
  if(directories)
    list(TRANSFORM directories REPLACE "^(/.*)$" "$<BUILD_INTERFACE:\\1>")
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${directories})
  endif()
endfunction()
